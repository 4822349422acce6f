"""Every row of a table on one GPU by one clock: PyTorch, its files, ONNX Runtime, AOTInductor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from gpu_nets import GpuNet

import deployfold
from deployfold.config.precision import Precision
from deployfold.measuring.latency import measure
from deployfold.runtimes import AOT_INDUCTOR, ONNX_RUNTIME, PROGRAM, TORCHSCRIPT, RunSettings
from deployfold.runtimes.aot_inductor import missing_compiler
from deployfold.runtimes.cuda import Cuda
from deployfold.runtimes.device_choice import resolve_device, torch_tf32
from deployfold.runtimes.eager import EagerRunner
from deployfold.runtimes.protocol import Runner
from deployfold.runtimes.torch_variants import CompiledRunner, HalfRunner
from deployfold.targets.machine import Machine

DEVICE = "cuda:0"
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def torch_gpu(machine: Machine) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a PyTorch that can use the GPU")


@pytest.fixture
def loaded() -> Iterator[list[Runner]]:
    """Runners to close at the end."""
    runners: list[Runner] = []
    yield runners
    for one in runners:
        one.close()


def check(runner: Runner, net: GpuNet, loaded: list[Runner], tolerance: float = 1e-2) -> None:
    """Check that the runner computes the network, timed by a GPU's clock."""
    loaded.append(runner)
    runner.load()
    (output,) = runner.run((X,))
    expected = net.expected(X.numpy())
    scale = np.abs(expected).max()
    assert np.abs(output.astype(np.float32) - expected).max() <= tolerance * scale
    step = runner.prepare((X,))
    times = step()
    assert times is not None
    assert min(times.compute_ms, times.h2d_ms, times.d2h_ms) > 0


def test_auto_is_the_gpu() -> None:
    assert resolve_device("auto") == DEVICE


@pytest.mark.parametrize("graph", [True, False])
def test_eager_runs_there_and_the_module_stays(
    gpu_net: GpuNet, loaded: list[Runner], graph: bool
) -> None:
    runner = EagerRunner(gpu_net.module, device=DEVICE, cuda_graph=graph)
    check(runner, gpu_net, loaded)
    assert next(gpu_net.module.parameters()).device.type == "cpu"
    times = runner.prepare((X,))()
    assert times is not None
    assert times.graph is not None
    assert times.graph.used is graph


def test_the_fp16_row(gpu_net: GpuNet, loaded: list[Runner]) -> None:
    check(HalfRunner(gpu_net.module, device=DEVICE), gpu_net, loaded, tolerance=0.05)


def test_the_torch_compile_row(gpu_net: GpuNet, loaded: list[Runner]) -> None:
    check(CompiledRunner(gpu_net.module, device=DEVICE), gpu_net, loaded)


def test_torchscript_and_program(gpu_net: GpuNet, loaded: list[Runner], tmp_path: Path) -> None:
    settings = RunSettings(device=DEVICE, trust=True)
    check(PROGRAM.open(gpu_net.program, settings), gpu_net, loaded)
    script = torch.jit.freeze(torch.jit.trace(gpu_net.module.eval(), X))
    script.save(str(tmp_path / "net.ts.pt"))
    check(TORCHSCRIPT.open(tmp_path / "net.ts.pt", settings), gpu_net, loaded)


def test_onnx_runtime_binds_its_inputs_there(gpu_net: GpuNet, loaded: list[Runner]) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu")
    runner = ONNX_RUNTIME.open(gpu_net.onnx[Precision.FP32], RunSettings(device=DEVICE))
    check(runner, gpu_net, loaded)
    assert runner.variant == ""


def test_aot_inductor_compiles_for_the_gpu(
    gpu_net: GpuNet, loaded: list[Runner], tmp_path: Path
) -> None:
    from deployfold.config.inputs import InputSpec
    from deployfold.exporting import ExportJob
    from deployfold.exporting.aot_inductor import export_aot_inductor

    if (missing := missing_compiler()) is not None:
        pytest.skip(missing)
    spec = InputSpec.parse(["x=2x3x32x32"])
    path = tmp_path / "net.aoti.pt2"
    export_aot_inductor(ExportJob(gpu_net.module, (X,), spec, device=DEVICE), path)
    check(AOT_INDUCTOR.open(path, RunSettings(device=DEVICE, trust=True)), gpu_net, loaded)


def test_all_rows_of_a_measurement_are_compared_by_one_clock(gpu_net: GpuNet) -> None:
    rows = measure(
        {
            "pytorch": EagerRunner(gpu_net.module, device=DEVICE),
            "fp16": HalfRunner(gpu_net.module, device=DEVICE),
        },
        (X,),
        max_seconds=5.0,
    ).rows
    for row in rows:
        assert row.latency is not None
        assert row.latency.speedup is not None
        assert row.latency.end_to_end_ms is not None
        assert row.latency.end_to_end_ms > row.latency.median_ms


def test_fp32_differs_because_of_tf32(gpu_net: GpuNet, machine: Machine) -> None:
    assert machine.gpu is not None
    if machine.gpu.compute_capability < (8, 0):
        pytest.skip("TF32 came with Ampere")
    a, b = torch.randn(512, 512, device=DEVICE), torch.randn(512, 512, device=DEVICE)
    exact = (a.double() @ b.double()).float()
    errors = []
    for allowed in (True, False):
        with torch_tf32(allowed):
            errors.append(float((a @ b - exact).abs().max()))
    assert errors[0] > 4 * errors[1]


def test_the_gpu_has_one_uuid_everywhere(machine: Machine) -> None:
    cuda = Cuda()
    try:
        assert machine.gpu is not None
        assert machine.gpu.uuid in (None, cuda.uuid)
        torchs = str(getattr(torch.cuda.get_device_properties(0), "uuid", ""))
        assert not torchs or cuda.uuid.endswith(torchs)
    finally:
        cuda.close()


def test_a_build_runs_every_row_on_the_gpu(gpu_net: GpuNet, tmp_path: Path) -> None:
    torch.save(gpu_net.module, tmp_path / "net.pt")
    report = deployfold.build(
        tmp_path / "net.pt", inputs=["2x3x32x32"], output=str(tmp_path / "out"), engine=False,
        max_seconds=5.0, trust=True, device="cuda",
    )  # fmt: skip
    rows = {row.name: row for row in report.rows}
    assert any("Every row ran on cuda:0" in note for note in report.notes)
    for name in ("pytorch", "folded", "folded-fp16", "torchscript", "program"):
        assert rows[name].latency is not None, rows[name].not_measured
        assert rows[name].latency.end_to_end_ms is not None
