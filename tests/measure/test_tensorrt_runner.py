"""The TensorRT runner: its errors anywhere, its numbers where a GPU is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deployfold.compile.sidecar import built_for, read_sidecar
from deployfold.errors import MeasureError
from deployfold.measure.latency import measure
from deployfold.measure.runners import EagerRunner, TensorRTRunner

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="tests the message without a GPU")
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="needs an NVIDIA GPU, its driver and a CUDA build of torch",
)


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
        ("[]", "does not say which"),
        ({}, "does not say which"),
        ({"library": "os"}, "does not say which of tensorrt and tensorrt_rtx"),
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
    assert built_for({"library": "tensorrt"}) == "an NVIDIA GPU"


def test_errors_of_the_real_library_reach_our_message() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    from deployfold.compile.runtime import collecting_logger

    messages: list[str] = []
    logger = collecting_logger(trt, messages)
    assert trt.Runtime(logger).deserialize_cuda_engine(b"not an engine" * 100) is None
    assert any("erialization" in message for message in messages)


def build_scale_engine(path: Path) -> None:
    """y = 2 x on (N, 4) with a dynamic batch of 1 to 8, for this GPU."""
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    x = network.add_input("x", trt.float32, (-1, 4))
    two = network.add_constant((1, 4), np.full((1, 4), 2, dtype=np.float32))
    product = network.add_elementwise(x, two.get_output(0), trt.ElementWiseOperation.PROD)
    output = product.get_output(0)
    output.name = "y"
    network.mark_output(output)
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 4), (2, 4), (8, 4))
    config.add_optimization_profile(profile)
    serialized = builder.build_serialized_network(network, config)
    path.write_bytes(memoryview(serialized))
    sidecar = {"library": "tensorrt_rtx", "compute_capabilities": ["8.9"]}
    path.with_name(f"{path.name}.json").write_text(json.dumps(sidecar))


@pytest.mark.gpu
@needs_gpu
def test_an_engine_runs_and_times_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "scale.engine"
    build_scale_engine(path)
    runner = TensorRTRunner(path)
    runner.load()
    for batch in (1, 3):
        x = torch.randn(batch, 4)
        (y,) = runner.run((x,))
        np.testing.assert_array_equal(y, 2 * x.numpy())
    times = runner.prepare((torch.randn(2, 4),))()
    assert times is not None
    assert min(times.compute_ms, times.h2d_ms, times.d2h_ms) > 0
    with pytest.raises(MeasureError, match="optimization profile"):
        runner.run((torch.randn(9, 4),))
    runner.close()


@pytest.mark.gpu
@needs_gpu
def test_a_garbage_engine_is_refused_on_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = engine_file(tmp_path, {"library": "tensorrt_rtx", "compute_capabilities": ["8.9"]})
    with pytest.raises(MeasureError, match="built for sm_89"):
        TensorRTRunner(path).load()
