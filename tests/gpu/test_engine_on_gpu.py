"""Builds engines for the GPU in this machine, runs them, times them and compares them.

Needs an NVIDIA GPU with its driver; skipped with the reason where there is none, and where what is
installed does not serve it: of the data-centre GPUs TensorRT-RTX knows some, TensorRT all. Each
test runs with TensorRT and with TensorRT-RTX, as installed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from gpu_nets import LIBRARIES, SPEC, SQNR, GpuNet, make_data, only, request_on

from deployfold.compiling.planning import plan_engines
from deployfold.compiling.records import EngineArtifact, NoEngine, optimization_profiles
from deployfold.compiling.tensorrt.builder_config import OPTIONS
from deployfold.compiling.tensorrt.compile import compile_engine
from deployfold.compiling.torch_tensorrt.compile import compile_torch_tensorrt
from deployfold.config.engine import EngineOptions
from deployfold.config.optimization_profiles import InputShapes
from deployfold.config.precision import Precision
from deployfold.errors import CompileError, MeasureError
from deployfold.measuring.latency import measure
from deployfold.measuring.layer_times import layer_times
from deployfold.runtimes.cuda import Cuda
from deployfold.runtimes.onnxruntime import OnnxRuntimeRunner
from deployfold.runtimes.settings import RunSettings
from deployfold.runtimes.tensorrt import TensorRTRunner
from deployfold.runtimes.tensorrt_engine import EngineRunner
from deployfold.targets.catalogue import normalise
from deployfold.targets.libraries import Library
from deployfold.targets.machine import Machine
from deployfold.util.numerics import sqnr_db

Build = Callable[..., EngineArtifact]
pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("machine")]
each_library = pytest.mark.parametrize("library", LIBRARIES)


def outputs(path: Path, data: np.ndarray) -> np.ndarray:
    with closing(TensorRTRunner(path)) as runner:
        runner.load()
        (output,) = runner.run((data,))
    return output


@each_library
def test_an_engine_tells_the_time_and_the_type_of_each_layer(
    build: Build, library: Library
) -> None:
    artifact = build(library, Precision.FP16)
    times = layer_times(TensorRTRunner(artifact.path), (make_data(1),), calls=10)
    assert times is not None
    assert times.not_measured is None
    assert sum(one.ms for one in times.layers) > 0
    assert all(one.kind for one in times.layers), "as the engine inspector describes them"


@each_library
@pytest.mark.parametrize("precision", list(SQNR))
def test_an_engine_agrees_with_onnx_runtime_at_every_batch(
    build: Build, gpu_net: GpuNet, library: Library, precision: Precision
) -> None:
    made = build(library, precision)
    for batch in (1, 2, 5, 8):
        data = make_data(batch)
        assert sqnr_db(gpu_net.expected(data), outputs(made.path, data)) > SQNR[precision]


@each_library
def test_a_batch_outside_every_profile_is_an_error(build: Build, library: Library) -> None:
    made = build(library)
    with closing(TensorRTRunner(made.path)) as runner:
        runner.load()
        with pytest.raises(MeasureError, match="profile contains the shape 9x3x32x32"):
            runner.run((make_data(9),))
        assert runner.run((make_data(8),))[0].shape == (8, 10)


@each_library
def test_several_profiles_are_used_as_the_shape_asks(
    machine: Machine, gpu_net: GpuNet, tmp_path: Path, library: Library
) -> None:
    if getattr(machine, library) is None:
        pytest.skip(f"{library} is not installed")
    request = request_on(only(machine, library), Precision.FP32)
    if isinstance(request, NoEngine):
        pytest.skip(request.reason)
    small, large = (
        (InputShapes("x", (low, 3, 32, 32), (low, 3, 32, 32), (high, 3, 32, 32)),)
        for low, high in ((1, 2), (3, 16))
    )
    request = dataclasses.replace(request, profiles=(small, large))
    made = compile_engine(gpu_net.onnx[Precision.FP32], tmp_path / "net.engine", request)
    for batch in (16, 1, 3, 2):
        data = make_data(batch)
        assert sqnr_db(gpu_net.expected(data), outputs(made.path, data)) > SQNR[Precision.FP32]
        with closing(Cuda()) as cuda, closing(EngineRunner(made.path, cuda)) as runner:
            runner.load()
            runner.bind({"x": data})
            runner.step()
            (output,) = runner.outputs().values()
        assert sqnr_db(gpu_net.expected(data), output) > SQNR[Precision.FP32]


@each_library
def test_the_sidecar_tells_the_gpu_and_the_driver(
    build: Build, machine: Machine, library: Library
) -> None:
    made = build(library)
    sidecar = json.loads(made.sidecar.read_text())
    assert machine.gpu is not None
    assert sidecar["gpu"] == machine.gpu.name
    assert sidecar["driver"] == machine.gpu.driver_version
    assert sidecar["loaded_on_gpu"] is True


@each_library
def test_latency_is_measured_beside_the_cpus(
    build: Build, gpu_net: GpuNet, library: Library
) -> None:
    made = build(library, Precision.FP16)
    found = measure(
        {
            "onnxruntime": OnnxRuntimeRunner(gpu_net.onnx[Precision.FP32]),
            "engine": TensorRTRunner(made.path),
        },
        (make_data(8),),
        max_seconds=5.0,
    )
    engine = {row.name: row for row in found.rows}["engine"]
    assert engine.not_measured is None
    assert engine.latency is not None
    assert 0 < engine.latency.median_ms < engine.latency.p99_ms * 1.0001
    assert engine.latency.h2d_ms is not None
    assert engine.latency.d2h_ms is not None


@each_library
@pytest.mark.parametrize("graph", [True, False])
def test_a_cuda_graph_computes_what_single_launches_do(
    build: Build, gpu_net: GpuNet, library: Library, graph: bool
) -> None:
    made = build(library, Precision.FP16)
    with closing(TensorRTRunner(made.path, RunSettings(cuda_graph=graph))) as runner:
        runner.load()
        for batch, seed in ((2, 2), (2, 12), (5, 5), (2, 22)):
            data = make_data(seed)[:batch]
            (output,) = runner.run((data,))
            assert sqnr_db(gpu_net.expected(data), output) > SQNR[Precision.FP16]
        print(library, runner.cuda_graph)  # with -rP: what TensorRT-RTX says of its own
        if library == "tensorrt" or not graph:
            assert runner.cuda_graph.used is graph
    found = measure(
        {"engine": TensorRTRunner(made.path, RunSettings(cuda_graph=graph))},
        (make_data(8),),
        max_seconds=2.0,
    )
    (engine,) = found.rows
    assert engine.latency is not None, engine.not_measured
    assert engine.latency.graph is not None
    assert engine.latency.graph.used or not graph or library == "tensorrt_rtx"


def test_tensorrt_rtx_keeps_the_kernels_that_it_compiled(
    build: Build, gpu_net: GpuNet, tmp_path: Path
) -> None:
    made, data = build("tensorrt_rtx", Precision.FP16), make_data(2)
    options = RunSettings(runtime_cache=tmp_path / "cache")
    for _ in range(2):
        with closing(TensorRTRunner(made.path, options)) as runner:
            runner.load()
            (output,) = runner.run((data,))
        assert sqnr_db(gpu_net.expected(data), output) > SQNR[Precision.FP16]
        (cache,) = (tmp_path / "cache").iterdir()
        assert cache.stat().st_size > 0


def test_tensorrt_rtx_itself_refuses_an_engine_of_another_architecture(
    machine: Machine, gpu_net: GpuNet, tmp_path: Path
) -> None:
    """The sidecar does not name the GPU, so the library decides."""
    if machine.tensorrt_rtx is None:
        pytest.skip("tensorrt_rtx is not installed")
    assert machine.gpu is not None
    other = "sm_75" if machine.gpu.compute_capability != (7, 5) else "sm_120"
    (request,) = plan_engines([other], Precision.FP16, only(machine, "tensorrt_rtx"))
    assert not isinstance(request, NoEngine)
    request = dataclasses.replace(request, profiles=optimization_profiles(SPEC))
    made = compile_engine(gpu_net.onnx[Precision.FP16], tmp_path / "other.engine", request)
    sidecar = json.loads(made.sidecar.read_text())
    made.sidecar.write_text(json.dumps({**sidecar, "compute_capabilities": []}))
    with pytest.raises(MeasureError, match=r"other\.engine cannot be loaded") as caught:
        TensorRTRunner(made.path).load()
    assert "unsupported cc" in caught.value.message


@each_library
def test_an_engine_for_another_gpu_is_explained(
    build: Build, machine: Machine, library: Library
) -> None:
    made = build(library)
    sidecar = json.loads(made.sidecar.read_text())
    made.sidecar.write_text(json.dumps({**sidecar, "compute_capabilities": ["5.2"]}))
    assert machine.gpu is not None
    major, minor = machine.gpu.compute_capability
    with pytest.raises(MeasureError) as caught:
        TensorRTRunner(made.path).load()
    assert "built for sm_52 by TensorRT" in caught.value.message
    assert f"this is sm_{major}{minor} with TensorRT" in caught.value.message
    assert "run deployfold finish here" in caught.value.message


@each_library
def test_a_damaged_engine_is_explained(build: Build, library: Library) -> None:
    made = build(library)
    content = bytearray(made.path.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    made.path.write_bytes(content)
    with pytest.raises(MeasureError, match="damaged"):
        TensorRTRunner(made.path).load()


@each_library
def test_the_runner_without_torch_gives_the_same(
    build: Build, machine: Machine, library: Library
) -> None:
    made = build(library)
    data = make_data(5)
    with closing(Cuda()) as cuda, closing(EngineRunner(made.path, cuda)) as runner:
        assert machine.gpu is not None
        assert cuda.compute_capability == machine.gpu.compute_capability
        assert normalise(cuda.name) == normalise(machine.gpu.name)
        runner.load()
        for batch in (1, 5):  # buffers are made anew
            runner.bind({"x": make_data(batch)})
            times = runner.step()
        (output,) = runner.outputs().values()
        assert times.compute_ms > 0
        with pytest.raises(MeasureError, match="no optimization profile"):
            runner.bind({"x": make_data(9)})
    np.testing.assert_array_equal(output, outputs(made.path, data))


@each_library
@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(optimization_level=0),
        EngineOptions(weight_streaming=True),
        EngineOptions(refit=True),
        EngineOptions(hardware_compatibility="ampere_plus"),
        EngineOptions(version_compatible=True, exclude_lean_runtime=True),
    ],
    ids=lambda options: "-".join(options.changed),
)
def test_an_option_builds_or_is_refused_with_the_reason(
    build: Build, gpu_net: GpuNet, machine: Machine, library: Library, options: EngineOptions
) -> None:
    assert machine.gpu is not None
    if options.hardware_compatibility != "none" and machine.gpu.compute_capability < (8, 0):
        pytest.skip("Ampere or newer")
    not_in_rtx = {name for name, one in OPTIONS.items() if one.not_in_rtx}
    if library == "tensorrt_rtx" and set(options.changed) & not_in_rtx:
        with pytest.raises(CompileError, match="cannot do"):
            build(library, Precision.FP32, options)
        return
    made = build(library, Precision.FP32, options)
    data = make_data(2)
    if options.exclude_lean_runtime:
        return  # it was loaded again by the build; running it takes a lean runtime from elsewhere
    assert sqnr_db(gpu_net.expected(data), outputs(made.path, data)) > SQNR[Precision.FP32]


@each_library
def test_a_weight_stripped_engine_is_smaller(build: Build, library: Library) -> None:
    whole = build(library, name="whole.engine")
    stripped = build(library, options=EngineOptions(strip_plan=True), name="stripped.engine")
    assert stripped.bytes < whole.bytes


def test_a_timing_cache_is_written_and_used(build: Build, tmp_path: Path) -> None:
    options = EngineOptions(timing_cache=tmp_path / "cache")
    build("tensorrt", Precision.FP16, options, "first.engine")
    (cache,) = (tmp_path / "cache").iterdir()
    assert cache.stat().st_size > 0
    build("tensorrt", Precision.FP16, options, "second.engine")
    assert list((tmp_path / "cache").iterdir()) == [cache]


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_torch_tensorrt_compiles_the_program(
    gpu_net: GpuNet, tmp_path: Path, precision: Precision
) -> None:
    made = compile_torch_tensorrt(
        gpu_net.program, tmp_path / "net.tt.pt2", precision=precision, inputs=SPEC, timeout=900
    )
    if isinstance(made, NoEngine):
        pytest.skip(made.reason)
    assert made.engines >= 1
    assert made.sqnr_db > SQNR[precision]
    assert made.bytes == made.path.stat().st_size > 0
