"""A Triton model repository, read with Triton's own definition of ``config.pbtxt``."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_builds import make_build, replace_onnx
from hypothesis import given
from hypothesis import strategies as st
from triton_repositories import add_torchscript, read_config

from deployfold.bundle.pbtxt import text
from deployfold.bundle.triton import write_repository
from deployfold.errors import BundleError, UsageError
from deployfold.events import Note
from deployfold.finish.reference import write_reference


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return make_build(tmp_path / "build")


def test_every_backend_has_a_model_that_triton_can_read(
    proto: Any, build: Path, tmp_path: Path
) -> None:
    add_torchscript(build)
    version, names = write_repository(build, tmp_path / "repo", instances=2)
    assert version == 1
    assert set(names) == {"net_onnxruntime_fp32", "net_tensorrt_fp16", "net_pytorch_fp32"}
    wanted = {
        "net_onnxruntime_fp32": ("onnxruntime", "onnxruntime_onnx", "model.onnx", "net.onnx"),
        "net_tensorrt_fp16": (
            "tensorrt", "tensorrt_plan", "model.plan", "net.fp16.sm_89.engine",
        ),
        "net_pytorch_fp32": ("pytorch", "pytorch_libtorch", "model.pt", "net.ts.pt"),
    }  # fmt: skip
    for name, (backend, platform, file, source) in wanted.items():
        config = read_config(proto, tmp_path / "repo", name)
        assert (config.name, config.backend, config.platform) == (name, backend, platform)
        assert config.default_model_filename == file
        there = {path.name for path in (tmp_path / "repo" / name / "1").iterdir()}
        assert there == {file}
        content = (tmp_path / "repo" / name / "1" / file).read_bytes()
        assert content == (build / source).read_bytes()
        assert config.max_batch_size == 8, "the engine's greatest"
        assert config.HasField("dynamic_batching")
        (one,) = config.input
        (out,) = config.output
        first = name != "net_pytorch_fp32"
        assert (one.name, out.name) == (("x", "y") if first else ("INPUT__0", "OUTPUT__0"))
        assert (list(one.dims), list(out.dims)) == ([3, 16, 16], [7]), "without the batch"
        assert one.data_type == proto.DataType.Value("TYPE_FP32")
        (group,) = config.instance_group
        assert group.count == 2
        kind = "KIND_GPU" if backend == "tensorrt" else "KIND_AUTO"
        assert group.kind == proto.ModelInstanceGroup.Kind.Value(kind)
    engine = read_config(proto, tmp_path / "repo", "net_tensorrt_fp16")
    assert list(engine.dynamic_batching.preferred_batch_size) == [4], "its optimum"


def test_a_fixed_batch_is_not_joined_and_stands_in_the_shape(
    proto: Any, build: Path, tmp_path: Path
) -> None:
    import onnx

    model = onnx.load(build / "net.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    replace_onnx(build, model)
    write_repository(build, tmp_path / "repo", max_batch=32)
    config = read_config(proto, tmp_path / "repo", "net_onnxruntime_fp32")
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [1, 3, 16, 16]
    assert list(config.output[0].dims) == [1, 7]


def test_torchscript_that_serves_one_batch_only_is_not_joined(
    proto: Any, build: Path, tmp_path: Path
) -> None:
    add_torchscript(build, fixed_batch=True)
    write_reference(
        build / "reference.npz", [np.zeros((5, 3, 16, 16), np.float32)], [np.zeros((5, 7))]
    )
    write_repository(build, tmp_path / "repo")
    config = read_config(proto, tmp_path / "repo", "net_pytorch_fp32")
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [5, 3, 16, 16]
    assert list(config.output[0].dims) == [5, 7]
    assert read_config(proto, tmp_path / "repo", "net_onnxruntime_fp32").max_batch_size == 8


def test_engines_of_several_gpus_are_one_model(proto: Any, tmp_path: Path) -> None:
    engines = [("8.9", "tensorrt"), ("9.0", "tensorrt"), ("12.0", "tensorrt_rtx")]
    build = make_build(tmp_path / "build", engines=engines)
    expected: list[str] = []
    write_repository(
        build,
        tmp_path / "repo",
        emit=lambda event: expected.append(event.text) if isinstance(event, Note) else None,
    )
    config = read_config(proto, tmp_path / "repo", "net_tensorrt_fp16")
    files = {"8.9": "model.sm_89.plan", "9.0": "model.sm_90.plan"}
    assert dict(config.cc_model_filenames) == files
    folder = tmp_path / "repo" / "net_tensorrt_fp16" / "1"
    assert {path.name for path in folder.iterdir()} == set(files.values())
    assert b"9.0" in (folder / "model.sm_90.plan").read_bytes()
    (left,) = expected
    assert "net.fp16.sm_120.engine is left out" in left


def test_an_engine_without_its_weights_is_left_out(build: Path, tmp_path: Path) -> None:
    path = build / "net.fp16.sm_89.engine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"options": {"strip_plan": True}}))
    _, names = write_repository(build, tmp_path / "repo")
    assert names == ("net_onnxruntime_fp32",)


def test_the_next_build_is_the_next_version_and_the_same_one_is_none(
    proto: Any, build: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "repo"
    assert write_repository(build, repository)[0] == 1
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    assert write_repository(build, repository)[0] == 1, "it is there already"
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before
    sidecar = build / "net.fp16.sm_89.engine.json"
    engine = build / "net.fp16.sm_89.engine"
    changed = b"ENGINE " * 40 + b"8.9"
    engine.write_bytes(changed)
    facts = json.loads(sidecar.read_text()) | {"sha256": hashlib.sha256(changed).hexdigest()}
    sidecar.write_text(json.dumps(facts))
    assert write_repository(build, repository)[0] == 2
    for name in ("net_onnxruntime_fp32", "net_tensorrt_fp16"):
        assert {path.name for path in (repository / name).iterdir()} == {"1", "2", "config.pbtxt"}
    assert (repository / "net_tensorrt_fp16" / "2" / "model.plan").read_bytes() == changed
    assert {path.name for path in tmp_path.iterdir()} == {"build", "repo"}, "nothing temporary"


def test_a_version_that_is_there_in_part_is_completed(build: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    assert write_repository(build, repository)[0] == 1
    shutil.rmtree(repository / "net_tensorrt_fp16")  # what a killed run did not come to
    assert write_repository(build, repository)[0] == 1
    for name in ("net_onnxruntime_fp32", "net_tensorrt_fp16"):
        assert {path.name for path in (repository / name).iterdir()} == {"1", "config.pbtxt"}


def test_models_that_were_made_otherwise_are_not_touched(build: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    write_repository(build, repository)
    before = {p: p.read_bytes() for p in repository.rglob("*") if p.is_file()}
    with pytest.raises(BundleError, match=r"config\.pbtxt differs"):
        write_repository(build, repository, instances=3)
    assert {p: p.read_bytes() for p in repository.rglob("*") if p.is_file()} == before


def test_labels_belong_to_the_output(proto: Any, build: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("cat\ndog\n")
    write_repository(build, tmp_path / "repo", labels=tmp_path / "labels")
    config = read_config(proto, tmp_path / "repo", "net_onnxruntime_fp32")
    assert config.output[0].label_filename == "labels.txt"
    assert (tmp_path / "repo" / config.name / "labels.txt").read_text() == "cat\ndog\n"


def test_a_place_that_cannot_be_written_to_is_an_error(build: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Cannot write"):
        write_repository(build, tmp_path / "file" / "repo")


@given(st.text(), st.integers(0, 2**31 - 1), st.lists(st.integers(-1, 2**40), max_size=5))
def test_any_text_comes_back_as_it_was(proto: Any, name: str, batch: int, dims: list[int]) -> None:
    from google.protobuf import text_format

    message = {
        "name": name,
        "max_batch_size": batch,
        "input": [{"name": name, "dims": dims}, {"name": "b", "optional": True}],
        "dynamic_batching": {},
        "cc_model_filenames": [{"key": name, "value": name}],
        "backend": None,
    }
    config = text_format.Parse(text(message), proto.ModelConfig())
    assert (config.name, config.max_batch_size) == (name, batch)
    assert (config.input[0].name, list(config.input[0].dims)) == (name, dims)
    assert config.input[1].optional
    assert config.HasField("dynamic_batching")
    assert dict(config.cc_model_filenames) == {name: name}
    assert config.backend == ""
