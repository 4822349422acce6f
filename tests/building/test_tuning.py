"""``--tune`` in a build: where it is refused, and what an interrupted build finds again."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from deployfold.building import tuning as module
from deployfold.building.journal import Journal
from deployfold.building.tuning import check_tuning, tuning
from deployfold.config.inputs import InputSpec
from deployfold.config.make_spec import make_spec
from deployfold.config.precision import Precision
from deployfold.errors import UsageError
from deployfold.reporting.row import Speedup
from deployfold.targets.machine import Gpu, Machine

ADA = Machine(Gpu("NVIDIA L4", (8, 9)), tensorrt_rtx="1.7.1")
SOURCE = Path("net.onnx")
OPTIONS = {"int8": True, "calib": "random", "tune": True}


def spec(**written):
    return make_spec("net.pt", OPTIONS | written)


@pytest.mark.parametrize(
    ("machine", "target"), [(Machine(tensorrt_rtx="1.7.1"), "auto"), (ADA, "a100"), (ADA, "sm_75")]
)
def test_tuning_needs_a_gpu_that_runs_an_engine_of_the_build(monkeypatch, machine, target):
    monkeypatch.setattr(module, "detect", lambda: machine)
    with pytest.raises(UsageError, match="this machine runs no engine of this build"):
        check_tuning(spec(target=[target]))


@pytest.mark.parametrize("target", ["auto", "l4", "portable"])
def test_the_engine_for_this_gpu_is_timed(monkeypatch, target):
    monkeypatch.setattr(module, "detect", lambda: ADA)
    check_tuning(spec(target=[target]))
    loaded = SimpleNamespace(inputs=InputSpec.parse(["x=1x3x8x8"]))
    found = tuning(Precision.INT8, SOURCE, loaded, spec(target=[target]), Journal())
    assert found.where == "NVIDIA L4 with TensorRT-RTX 1.7.1"
    for other in (Precision.FP16, Precision.INT8_WEIGHTS):
        both = spec(target=[target], fp16=True, **{"int8-weights": True})
        assert tuning(other, SOURCE, loaded, both, Journal()) is None


def test_an_interrupted_build_does_not_time_the_same_files_again(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "detect", lambda: ADA)
    built = []

    def compare(first, second, *rest):
        if len(built) == 2:
            raise KeyboardInterrupt
        built.append((first.read_bytes(), second.read_bytes()))
        return Speedup(value=1 + len(built), low=1.0, high=9.0)

    engines = []

    def compile_engine(onnx, path, request, **how):
        engines.append(onnx.read_bytes())
        path.write_bytes(engines[-1])

    monkeypatch.setattr(module, "_compare", compare)
    monkeypatch.setattr(module, "compile_engine", compile_engine)
    loaded = SimpleNamespace(inputs=InputSpec.parse(["x=1x3x8x8"]))
    log = tmp_path / "net.int8.tuning.json"
    a, b = tmp_path / "a.onnx", tmp_path / "b.onnx"
    b.write_bytes(b"other")
    for _ in range(2):  # the second one is the build after the interruption
        found = tuning(Precision.INT8, tmp_path / "net.onnx", loaded, spec(), Journal())
        for number, content in enumerate((b"one", b"two")):
            a.write_bytes(content)
            assert found.compare(a, b).value == 2 + number
        a.write_bytes(b"three")
        with pytest.raises(KeyboardInterrupt):
            found.compare(a, b)
    assert len(built) == 2
    assert sorted(engines) == [b"one", b"other", b"three", b"two"], "each is built once"
    log.write_text(json.dumps({"x": "damaged"}))
    built.clear()
    a.write_bytes(b"one")
    assert found.compare(a, b).value == 2
