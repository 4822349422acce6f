"""The TensorRT runner's errors without a GPU; ``tests/gpu`` has the rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deployfold.compiling.sidecar import Sidecar, read_sidecar
from deployfold.errors import MeasureError
from deployfold.measuring.latency import measure
from deployfold.runtimes.eager import EagerRunner
from deployfold.runtimes.tensorrt import TensorRTRunner
from deployfold.targets.machine import detect

no_gpu = pytest.mark.skipif(detect().gpu is not None, reason="tests the message without a GPU")


def engine_file(folder: Path, sidecar: object) -> Path:
    path = folder / "net.engine"
    path.write_bytes(b"ptrt" + bytes(100))
    path.with_name("net.engine.json").write_text(
        sidecar if isinstance(sidecar, str) else json.dumps(sidecar)
    )
    return path


@no_gpu
def test_without_a_gpu_it_says_where_to_measure(tmp_path: Path) -> None:
    path = engine_file(tmp_path, {"library": "tensorrt_rtx", "compute_capabilities": ["8.9"]})
    with pytest.raises(MeasureError) as caught:
        TensorRTRunner(path).load()
    assert caught.value.message == "built for sm_89; measure it there: deployfold bench DIR"


@no_gpu
def test_an_engine_row_never_stops_the_others(tmp_path: Path) -> None:
    path = engine_file(tmp_path, {"library": "tensorrt", "compute_capabilities": ["8.0", "12.0"]})
    result = measure(
        {"pytorch": EagerRunner(torch.nn.Identity()), "tensorrt": TensorRTRunner(path)},
        (np.zeros((1, 2), dtype=np.float32),),
        max_seconds=0.2,
    )
    pytorch, engine = result.rows
    assert pytorch.latency is not None
    assert engine.latency is None
    assert engine.not_measured == (
        "built for sm_80, sm_120; measure it there: deployfold bench DIR"
    )


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "does not name the library"),
        ({}, "does not name the library"),
        ({"library": "os"}, "does not name the library of the engine"),
    ],
)
def test_a_sidecar_that_names_no_library_is_refused(
    tmp_path: Path, sidecar: object, message: str
) -> None:
    with pytest.raises(MeasureError, match=message):
        TensorRTRunner(engine_file(tmp_path, sidecar)).load()


def test_a_missing_engine_or_sidecar_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=r"gone\.engine cannot be loaded"):
        TensorRTRunner(tmp_path / "gone.engine").load()
    lone = tmp_path / "lone.engine"
    lone.write_bytes(b"x")
    with pytest.raises(MeasureError, match=r"no readable sidecar lone\.engine\.json"):
        read_sidecar(lone)


def test_running_before_loading_is_an_error_and_closing_is_not(tmp_path: Path) -> None:
    runner = TensorRTRunner(tmp_path / "net.engine")
    with pytest.raises(MeasureError, match="not loaded"):
        runner.run((np.zeros(1),))
    runner.close()
    runner.close()


def test_a_sidecar_without_capabilities_still_makes_a_sentence() -> None:
    assert Sidecar.of({"library": "tensorrt"}).built_for == "an NVIDIA GPU"


def test_errors_of_the_real_library_reach_our_message() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    from deployfold.runtimes.tensorrt_library import collecting_logger

    messages: list[str] = []
    logger = collecting_logger(trt, messages)
    assert trt.Runtime(logger).deserialize_cuda_engine(b"not an engine" * 100) is None
    assert any("erialization" in message for message in messages)
