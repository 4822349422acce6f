"""Refitting: which engines can take which weights, and what is kept.

TensorRT deserialises an engine on a GPU only. The engine, its refitter and its parser are stand-ins
here, whose names ``test_tensorrt_contract.py`` holds against the real bindings.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tensorrt_rtx

from deployfold.compiling.sidecar import read_sidecar
from deployfold.errors import MeasureError, UsageError
from deployfold.runtimes import tensorrt_refit
from deployfold.runtimes.tensorrt import TensorRTRunner
from deployfold.runtimes.tensorrt_file import OpenEngine
from deployfold.runtimes.tensorrt_refit import check_refittable, refit_file, with_weights
from deployfold.util.files import sha256

FLAGS = tensorrt_rtx.SerializationFlag


class Engine:
    """Serialises to its weights, unless the configuration still leaves them out."""

    weights = b""

    def create_serialization_config(self) -> Any:
        flags = {FLAGS.EXCLUDE_WEIGHTS}
        return SimpleNamespace(flags=flags, clear_flag=flags.discard, set_flag=flags.add)

    def serialize_with_config(self, config: Any) -> bytes:
        assert FLAGS.INCLUDE_REFIT in config.flags, "the copy can be refitted again"
        return b"plan" if FLAGS.EXCLUDE_WEIGHTS in config.flags else b"plan with " + self.weights


class Refitter:
    def __init__(self, engine: Engine, log: Any) -> None:
        self.engine, self.given = engine, b""

    def get_missing_weights(self) -> list[str]:
        return [f"layer{index}" for index in range(5)] if self.given == b"half" else []

    def refit_cuda_engine(self) -> bool:
        self.engine.weights = self.given
        return True


class OnnxParserRefitter:
    num_errors = 1

    def __init__(self, refitter: Refitter, log: Any) -> None:
        self.refitter = refitter

    def refit_from_file(self, path: str) -> bool:
        self.refitter.given = Path(path).read_bytes()
        return self.refitter.given != b"foreign"

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: "conv1 has another shape.")


LIBRARY = SimpleNamespace(
    Refitter=Refitter, OnnxParserRefitter=OnnxParserRefitter, SerializationFlag=FLAGS
)
CUDA: Any = SimpleNamespace(compute_capability=(8, 9))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The engines that were opened, in their order."""
    paths: list[Path] = []

    def open_engine(path: Path, capability: Any, *, trust: bool) -> OpenEngine:
        paths.append(path)
        return OpenEngine(LIBRARY, [], None, None, Engine())

    monkeypatch.setattr(tensorrt_refit, "open_engine", open_engine)
    return paths


def make_engine(folder: Path, onnx: bytes = b"weights", **options: bool) -> Path:
    path = folder / "net.engine"
    path.write_bytes(b"plan")
    (folder / "net.onnx").write_bytes(onnx)
    sidecar = {
        "library": "tensorrt_rtx", "bytes": 4, "sha256": sha256(path), "options": options,
        "onnx": "net.onnx", "onnx_sha256": sha256(folder / "net.onnx"),
    }  # fmt: skip
    (folder / "net.engine.json").write_text(json.dumps(sidecar))
    return path


def test_a_stripped_engine_gets_its_weights_and_the_result_is_kept(
    tmp_path: Path, opened: list[Path]
) -> None:
    path = make_engine(tmp_path, strip_plan=True)
    engine = with_weights(path, (8, 9), trust=False).engine
    kept = tmp_path / "net.refitted.engine"
    assert engine.weights == b"weights"
    assert kept.read_bytes() == b"plan with weights"
    assert not read_sidecar(kept).weight_stripped
    with_weights(path, (8, 9), trust=False)
    assert opened == [path, kept], "the second start opens what was kept"

    make_engine(tmp_path, b"newer", strip_plan=True)
    assert with_weights(path, (8, 9), trust=False).engine.weights == b"newer"


def test_other_weights_than_those_of_the_build_are_never_taken_unasked(
    tmp_path: Path, opened: list[Path]
) -> None:
    path = make_engine(tmp_path, strip_plan=True)
    (tmp_path / "net.onnx").write_bytes(b"others")
    with pytest.raises(MeasureError, match=r"net\.onnx is not the file it was built from"):
        with_weights(path, (8, 9), trust=False)
    assert opened == []
    refit_file(path, tmp_path / "net.onnx", tmp_path / "new.engine", CUDA, trust=False)
    assert (tmp_path / "new.engine").read_bytes() == b"plan with others"
    sidecar = read_sidecar(tmp_path / "new.engine").content
    assert sidecar["onnx_sha256"] == sha256(tmp_path / "net.onnx")
    assert sidecar["bytes"] == len(b"plan with others")
    check_refittable(tmp_path / "new.engine", tmp_path / "net.onnx")


def test_an_engine_with_its_weights_is_opened_as_it_is(tmp_path: Path, opened: list[Path]) -> None:
    path = make_engine(tmp_path)
    assert with_weights(path, (8, 9), trust=False).engine.weights == b""
    assert not (tmp_path / "net.refitted.engine").exists()


@pytest.mark.parametrize(
    ("onnx", "reason"),
    [
        (b"foreign", r"do not fit the engine: conv1 has another shape\."),
        (b"half", r"it lacks layer0, layer1, layer2 and 2 more\."),
    ],
)
def test_weights_of_another_network_are_refused_and_nothing_is_written(
    tmp_path: Path, opened: list[Path], onnx: bytes, reason: str
) -> None:
    path = make_engine(tmp_path, onnx, refit=True)
    with pytest.raises(MeasureError, match=reason):
        refit_file(path, tmp_path / "net.onnx", tmp_path / "new.engine", CUDA, trust=False)
    assert not (tmp_path / "new.engine").exists()


def test_an_engine_with_fixed_weights_is_refused(tmp_path: Path) -> None:
    path = make_engine(tmp_path)
    with pytest.raises(UsageError, match="built with its weights fixed") as caught:
        check_refittable(path, tmp_path / "net.onnx")
    assert "--refit" in str(caught.value.hint)


def test_a_stripped_engine_without_its_onnx_says_what_to_copy(tmp_path: Path) -> None:
    path = make_engine(tmp_path, strip_plan=True)
    (tmp_path / "net.onnx").unlink()
    with pytest.raises(MeasureError, match=r"its ONNX net\.onnx is not beside it") as caught:
        TensorRTRunner(path).inputs()
    assert "deployfold refit net.engine --weights ONNX" in str(caught.value.hint)
