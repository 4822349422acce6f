"""The values of ``--device``, and the runtimes' use of them; no test needs a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runs import fails, run
from torch import nn

from deployfold.config.flag_values import read_device
from deployfold.errors import ExitCode, MeasureError, UsageError
from deployfold.measuring.latency import measure
from deployfold.runtimes import ONNX_RUNTIME, PROGRAM, TORCHSCRIPT, RunSettings
from deployfold.runtimes.aot_inductor import missing_compiler
from deployfold.runtimes.device import gpu_index, is_gpu
from deployfold.runtimes.device_choice import resolve_device, torch_tf32
from deployfold.runtimes.eager import EagerRunner
from deployfold.runtimes.torch_variants import CompiledRunner, HalfRunner

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="tests the message without a GPU")


@pytest.mark.parametrize("text", ["auto", "cpu", "cuda", "cuda:1", " CUDA:0 "])
def test_a_device_is_read(text: str) -> None:
    assert read_device(text) == text.strip().lower()


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0"])
def test_other_words_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError, match="is not a device") as caught:
        read_device(text)
    assert "cuda:1" in str(caught.value.hint)


@no_gpu
def test_without_a_gpu_auto_leaves_it_to_the_runtime_and_cuda_is_refused() -> None:
    assert resolve_device("auto") is None
    assert resolve_device("cpu") == "cpu"
    for text in ("cuda", "cuda:3"):
        with pytest.raises(UsageError, match=f"There is no GPU {text} for the rows") as caught:
            resolve_device(text)
        assert caught.value.exit_code is ExitCode.USAGE


def test_a_gpus_number_is_in_its_name() -> None:
    assert [gpu_index(one) for one in (None, "cpu", "cuda:0", "cuda:3")] == [0, 0, 0, 3]
    assert [is_gpu(one) for one in (None, "cpu", "cuda:0")] == [False, False, True]


@no_gpu
@pytest.mark.parametrize("command", ["build", "bench", "run"])
def test_a_command_tells_it_before_any_work(command: str, tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).eval(), tmp_path / "net.pt")
    done = run(command, "net.pt", "--input", "1x3", "--device", "cuda", cwd=tmp_path)
    fails(done, 2, "There is no GPU cuda for the rows to run on")
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]
    fails(run(command, "net.pt", "--device", "gpu", cwd=tmp_path), 2, "'gpu' is not a device")


@no_gpu
def test_a_row_that_cannot_have_its_gpu_never_runs_elsewhere(tmp_path: Path) -> None:
    """A CPU's time in a table of GPU times would be wrong."""
    settings = RunSettings(device="cuda:0", trust=True)
    net = nn.Linear(3, 2).eval()
    torch.jit.save(torch.jit.trace(net, torch.zeros(1, 3)), tmp_path / "net.ts.pt")
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3),)), tmp_path / "net.pt2")
    (tmp_path / "net.onnx").write_bytes(b"never read")
    result = measure(
        {
            "eager": EagerRunner(net, device="cuda:0"),
            "half": HalfRunner(net, device="cuda:0"),
            "torchscript": TORCHSCRIPT.open(tmp_path / "net.ts.pt", settings),
            "program": PROGRAM.open(tmp_path / "net.pt2", settings),
            "onnxruntime": ONNX_RUNTIME.open(tmp_path / "net.onnx", settings),
        },
        (torch.zeros(1, 3),),
        max_seconds=0.5,
    )
    assert [row.latency for row in result.rows] == [None] * 5
    assert all(row.not_measured for row in result.rows)
    assert "CUDA provider is not installed here" in str(result.rows[-1].not_measured)


def test_fp16_is_a_rounded_copy_on_rounded_inputs() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    x = torch.randn(4, 64)
    runner = HalfRunner(net)
    runner.load()
    (output,) = runner.run((x,))
    assert output.dtype == np.float16
    assert next(net.parameters()).dtype == torch.float32, "the module itself is not changed"
    with torch.no_grad():
        expected = net(x).numpy()
    error = np.abs(output.astype(np.float32) - expected).max()
    assert 0 < error < 0.01
    assert runner.prepare((x.numpy(),))() is None
    runner.close()
    with pytest.raises(MeasureError, match="closed"):
        runner.load()


def test_integer_inputs_stay_integers_in_fp16() -> None:
    net = nn.Embedding(10, 4).eval()
    runner = HalfRunner(net)
    runner.load()
    assert runner.run((torch.tensor([[1, 2]]),))[0].shape == (1, 2, 4)


def test_torch_compile_without_a_compiler_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MeasureError, match=r"torch\.compile compiles C\+\+, but there is no"):
        CompiledRunner(nn.Identity()).load()


@pytest.mark.slow
@pytest.mark.skipif(missing_compiler() is not None, reason="needs a C++ compiler")
def test_torch_compile_gives_the_modules_outputs() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 4), nn.ReLU()).eval()
    x = torch.randn(2, 8)
    runner = CompiledRunner(net)
    runner.load()
    with torch.no_grad():
        np.testing.assert_allclose(runner.run((x,))[0], net(x).numpy(), rtol=1e-4, atol=1e-5)
    assert runner.prepare((x,))() is None
    runner.close()


def test_tf32_is_put_back() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    for allowed in (True, False):
        with torch_tf32(allowed):
            assert torch.backends.cuda.matmul.allow_tf32 is allowed
            assert torch.backends.cudnn.allow_tf32 is allowed
        now = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        assert now == before
