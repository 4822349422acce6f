"""What happens to an engine over its life: several inputs, memory, refit, clocks, a real net."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
from gpu_nets import LIBRARIES, SQNR, GpuNet, make_data, make_two_inputs, only, request_on
from test_commands_on_gpu import deployfold
from test_engine_on_gpu import outputs

from deployfold.compiling.records import EngineArtifact, NoEngine
from deployfold.compiling.tensorrt.compile import compile_engine
from deployfold.config.engine import EngineOptions
from deployfold.config.precision import Precision
from deployfold.measuring.gpu import gpu_state
from deployfold.runtimes.cuda import Cuda
from deployfold.runtimes.tensorrt import TensorRTRunner
from deployfold.targets.libraries import Library
from deployfold.targets.machine import Machine
from deployfold.util.numerics import sqnr_db

Build = Callable[..., EngineArtifact]
pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("machine")]
each_library = pytest.mark.parametrize("library", LIBRARIES)
SLACK = 32 << 20
"""Bytes of the GPU that other processes may take or give back during a test."""


@each_library
def test_floats_and_integers_go_in_and_two_types_come_out(
    machine: Machine, tmp_path: Path, library: Library
) -> None:
    if getattr(machine, library) is None:
        pytest.skip(f"{library} is not installed")
    request = request_on(only(machine, library), Precision.FP32)
    if isinstance(request, NoEngine):
        pytest.skip(request.reason)
    path, inputs, expected = make_two_inputs(tmp_path)
    request = dataclasses.replace(request, profiles=())
    made = compile_engine(path, tmp_path / "two.engine", request)
    with closing(TensorRTRunner(made.path)) as runner:
        runner.load()
        found, mask = runner.run((inputs["x"], inputs["index"]))
    assert sqnr_db(expected[0], found) > SQNR[Precision.FP32]
    assert mask.dtype == np.bool_
    sure = np.abs(expected[0]) > 1e-2  # TF32 may turn the sign of what is nearly zero
    np.testing.assert_array_equal(mask[sure], expected[1][sure])


@each_library
def test_memory_is_given_back(build: Build, library: Library) -> None:
    """Loading, running and closing again and again takes no more of the GPU than once."""
    made = build(library, Precision.FP16)
    with closing(Cuda()) as cuda:

        def free() -> int:
            gc.collect()
            found, total = ctypes.c_size_t(), ctypes.c_size_t()
            cuda.call("cuMemGetInfo_v2", ctypes.byref(found), ctypes.byref(total))
            return found.value

        outputs(made.path, make_data(8))  # the library keeps its kernels and its context
        first = free()
        for batch in (1, 8, 2, 5) * 5:
            outputs(made.path, make_data(batch))
        assert first - free() < SLACK
        with closing(TensorRTRunner(made.path)) as runner:
            runner.load()
            runner.run((make_data(8),))
            held = free()
            for batch in (1, 8, 2, 5) * 25:  # one runner binds other shapes
                runner.run((make_data(batch),))
            assert held - free() < SLACK


@each_library
def test_refit_gives_an_engine_the_weights_of_another_checkpoint(
    build: Build, gpu_net: GpuNet, tmp_path: Path, library: Library
) -> None:
    made = build(library, Precision.FP32, EngineOptions(refit=True))
    model = onnx.load(gpu_net.onnx[Precision.FP32])
    for initializer in model.graph.initializer:
        if initializer.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(initializer)
            halved = onnx.numpy_helper.from_array(values / 2, initializer.name)
            initializer.CopyFrom(halved)
    onnx.save(model, tmp_path / "other.onnx")
    deployfold(
        "refit", str(made.path), "--weights", "other.onnx", "-o", "other.engine", cwd=tmp_path
    )
    halved_net = dataclasses.replace(gpu_net, onnx={Precision.FP32: tmp_path / "other.onnx"})
    data = make_data(2)
    found = outputs(tmp_path / "other.engine", data)
    assert sqnr_db(halved_net.expected(data), found) > SQNR[Precision.FP32]
    assert sqnr_db(gpu_net.expected(data), found) < 10
    assert sqnr_db(gpu_net.expected(data), outputs(made.path, data)) > SQNR[Precision.FP32]


@each_library
def test_a_stripped_engine_is_refitted_at_its_first_start(
    build: Build, gpu_net: GpuNet, library: Library
) -> None:
    made = build(library, Precision.FP32, EngineOptions(strip_plan=True))
    source = gpu_net.onnx[Precision.FP32]
    beside = made.path.with_name(json.loads(made.sidecar.read_text())["onnx"])
    if not beside.exists():
        beside.write_bytes(source.read_bytes())
    data = make_data(2)
    for _ in range(2):  # the second start takes what the first one kept
        assert sqnr_db(gpu_net.expected(data), outputs(made.path, data)) > SQNR[Precision.FP32]
        assert made.path.with_name(f"{made.path.stem}.refitted.engine").is_file()


def test_nvml_reads_the_gpu_that_cuda_uses() -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    with closing(Cuda()) as cuda:
        uuid = cuda.uuid
    if uuid.startswith("MIG-"):
        pytest.skip("a slice of a GPU has no clocks of its own")
    state = gpu_state(0)
    assert state is not None
    assert state.sm_clock_mhz is not None
    assert state.max_sm_clock_mhz is not None
    assert 0 < state.sm_clock_mhz <= state.max_sm_clock_mhz
    assert state.temperature_c is None or 0 < state.temperature_c < 110


def _compiles(machine: Machine) -> None:
    entry = request_on(machine, Precision.FP16)
    if isinstance(entry, NoEngine):
        pytest.skip(entry.reason)


def test_bench_sweeps_the_batch_of_an_engine_and_times_its_layers(
    gpu_net: GpuNet, machine: Machine, tmp_path: Path
) -> None:
    import torch

    _compiles(machine)
    torch.save(gpu_net.module, tmp_path / "net.pt")
    words = ("--fp16", "--input", "2x3x32x32", "--dynamic-batch", "1:2:8", "--no-measure")
    deployfold("build", "net.pt", *words, "-o", "out", cwd=tmp_path)
    more = ("--batch", "1,8,32", "--layers", "--export-layers", "layers", "--max-seconds", "5")
    report = json.loads(deployfold("bench", "out", *more, "--json", cwd=tmp_path))
    (row,) = (one for one in report["rows"] if one["name"].startswith("tensorrt-fp16"))
    points = {point["batch"]: point for point in row["sweep"]}
    assert points[8]["throughput"] > points[1]["throughput"] > 0
    assert points[32]["not_measured"], "beyond the engine's profile"
    assert row["layer_times"]["not_measured"] is None
    assert sum(one["ms"] for one in row["layer_times"]["layers"]) > 0
    (profile,) = (tmp_path / "layers").glob("tensorrt-fp16*.profile.json")
    assert len(json.loads(profile.read_text())) > 1


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_a_real_net_keeps_its_accuracy_and_is_faster_than_pytorch(
    machine: Machine, tmp_path: Path, name: str
) -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a PyTorch that can use the GPU")
    _compiles(machine)
    words = ("--fp16", "--input", "1x3x224x224", "--max-seconds", "10", "--json")
    report = json.loads(deployfold("build", f"torchvision:{name}", *words, cwd=tmp_path))
    (row,) = (one for one in report["rows"] if one["name"].startswith("tensorrt-fp16"))
    if row["artifact"] is None:
        pytest.skip(row["not_measured"])
    assert row["accuracy"]["sqnr_db"] > 25  # random weights amplify rounding more than trained ones
    assert row["latency"]["speedup"]["low"] > 1
