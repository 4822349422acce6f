"""Triton joins requests only if the rows of every output belong to the rows of the inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from bundle_builds import make_build, replace_onnx
from onnx import TensorProto, helper
from triton_repositories import add_torchscript, read_config

from deployfold.building.report import model_inputs
from deployfold.bundle.batching import why_not_joined
from deployfold.bundle.triton import write_repository
from deployfold.config.inputs import InputSpec
from deployfold.config.optimization_profiles import DynamicBatch
from deployfold.errors import BundleError
from deployfold.events import Note
from deployfold.reporting.conditions import DynamicAxis
from deployfold.reporting.report import load_report, write_report


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return make_build(tmp_path / "build")


def model(
    nodes: list[tuple[str, list[str], list[str], dict[str, Any]]],
    output: list[str | int],
    constants: dict[str, list[int]] | None = None,
) -> onnx.ModelProto:
    """An ONNX from ``x``, batch x 3 x 16 x 16, to ``y``."""
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, outputs, **more) for kind, inputs, outputs, more in nodes],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [
            helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
            for name, values in (constants or {}).items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


ROWS = model([("Reshape", ["x", "to"], ["y"], {})], ["256*batch", 3], {"to": [-1, 3]})
"""Every sample becomes 256 rows, as the anchors of a detector do."""

FOUND = model(
    [
        ("Reshape", ["x", "to"], ["flat"], {}),
        ("Relu", ["flat"], ["positive"], {}),
        ("Cast", ["positive"], ["mask"], {"to": TensorProto.BOOL}),
        ("Compress", ["flat", "mask"], ["y"], {}),
    ],
    ["u0"],
    {"to": [-1]},
)
"""As many values as are positive: the first axis depends on the data."""

CENTRED = model(
    [
        ("ReduceMean", ["x"], ["mean"], {"axes": [0], "keepdims": 1}),
        ("Sub", ["x", "mean"], ["y"], {}),
    ],
    ["batch", 3, 16, 16],
)
"""Every row depends on the others."""

MISNAMED = model([("Reshape", ["x", "to"], ["y"], {})], ["batch", 384], {"to": [-1, 384]})
"""Two rows for each sample, though the file calls them the batch."""

SCALAR = model([("ReduceMean", ["x"], ["y"], {"keepdims": 0})], [])

NOTHING = model([("Relu", ["x"], ["y"], {})], ["batch", 3, 0, 16])


@pytest.mark.parametrize(
    ("net", "why", "dims"),
    [
        (ROWS, "the first axis of the output 'y' is 256*batch", [-1, 3]),
        (FOUND, "the first axis of the output 'y' is u0", [-1]),
        (CENTRED, "the rows of the output 'y' depend on the other rows", [-1, 3, 16, 16]),
        (MISNAMED, "the output 'y' has 4 rows for a batch of 2", [-1, 384]),
    ],
)
def test_other_rows_are_not_joined(
    proto: Any, build: Path, tmp_path: Path, net: onnx.ModelProto, why: str, dims: list[int]
) -> None:
    replace_onnx(build, net)
    add_torchscript(build)
    notes: list[str] = []
    _, names = write_repository(
        build,
        tmp_path / "repo",
        max_batch=32,
        emit=lambda event: notes.append(event.text) if isinstance(event, Note) else None,
    )
    assert len(names) == 3
    assert [note for note in notes if why in note], notes
    for name in names:
        config = read_config(proto, tmp_path / "repo", name)
        assert config.max_batch_size == 0
        assert not config.HasField("dynamic_batching")
        if "tensorrt" not in name:
            assert list(config.input[0].dims) == [-1, 3, 16, 16]
            assert list(config.output[0].dims) == dims


def test_rows_are_proved_from_the_smallest_batch_on(build: Path) -> None:
    assert why_not_joined(build / "net.onnx", build / "reference.npz") is None
    assert why_not_joined(build / "net.onnx", build / "reference.npz", smallest=4) is None
    (build / "reference.npz").unlink()
    why = why_not_joined(build / "net.onnx", build / "reference.npz")
    assert why is not None
    assert why.startswith("ONNX Runtime cannot run two batch sizes")


def test_the_batch_that_was_built_for_is_the_greatest(
    proto: Any, build: Path, tmp_path: Path
) -> None:
    add_torchscript(build)
    report = load_report(build / "report.json")
    dynamic = (DynamicAxis(axis=0, min=1, max=4), DynamicAxis(axis=2, min=16, max=64))
    inputs = (report.inputs[0].model_copy(update={"dynamic": dynamic}),)
    write_report(report.model_copy(update={"inputs": inputs}), build / "report.json")
    write_repository(build, tmp_path / "repo")
    for name, batch in (("onnxruntime_fp32", 4), ("pytorch_fp32", 4), ("tensorrt_fp16", 8)):
        assert read_config(proto, tmp_path / "repo", f"net_{name}").max_batch_size == batch
    write_repository(build, tmp_path / "asked", max_batch=6)
    assert read_config(proto, tmp_path / "asked", "net_onnxruntime_fp32").max_batch_size == 6


def _profile(low: int, best: int, high: int, size: int = 16) -> list[dict[str, Any]]:
    sizes = {"min": low, "opt": best, "max": high}
    return [{"name": "x"} | {key: [batch, 3, size, size] for key, batch in sizes.items()}]


@pytest.mark.parametrize(
    ("profiles", "batch", "names"),
    [
        ([_profile(1, 4, 8)], 8, []),
        ([_profile(1, 2, 4), _profile(4, 8, 16)], 16, ["0", "1"]),
        ([_profile(8, 8, 16), _profile(1, 2, 4)], 4, ["0", "1"]),  # nothing takes 5, 6 and 7
        ([_profile(4, 8, 16)], 0, []),  # nothing takes a single request
        ([_profile(1, 2, 8), _profile(1, 1, 2, size=32)], 2, ["0", "1"]),
        ([_profile(1, 2, 8), _profile(2, 2, 2, size=32)], 0, ["0", "1"]),
    ],
)
def test_an_engine_joins_what_its_profiles_take(
    proto: Any,
    build: Path,
    tmp_path: Path,
    profiles: list[Any],
    batch: int,
    names: list[str],
) -> None:
    path = build / "net.fp16.sm_89.engine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"profiles": profiles}))
    write_repository(build, tmp_path / "repo")
    config = read_config(proto, tmp_path / "repo", "net_tensorrt_fp16")
    assert config.max_batch_size == batch
    assert list(config.input[0].dims) == ([3, 16, 16] if batch else [-1, 3, 16, 16])
    assert list(config.instance_group[0].profile) == names


@pytest.mark.parametrize(
    ("net", "words"), [(SCALAR, "'y', which is a scalar"), (NOTHING, "'y', which has no elements")]
)
def test_what_triton_refuses_to_load_is_refused(
    build: Path, tmp_path: Path, net: onnx.ModelProto, words: str
) -> None:
    """Its model_config_utils.cc: no empty reshape without batching, and no dimension of 0."""
    replace_onnx(build, net)
    with pytest.raises(BundleError, match=words):
        write_repository(build, tmp_path / "repo")
    assert not (tmp_path / "repo").exists()


def test_a_report_names_the_axes_that_the_build_serves_in_several_sizes() -> None:
    inputs = InputSpec.parse(["x=1x3x16x16"]).with_profiles(
        (DynamicBatch(1, 2, 4), DynamicBatch(2, 4, 8))
    )
    (one,) = model_inputs(inputs)
    assert one.dynamic == (DynamicAxis(axis=0, min=1, max=8),)
