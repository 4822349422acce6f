"""Every CPU runtime gives the module's outputs, on files exported here."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deployfold.errors import MeasureError
from deployfold.measuring.latency import measure
from deployfold.runtimes.eager import EagerRunner
from deployfold.runtimes.onnxruntime import OnnxRuntimeRunner
from deployfold.runtimes.program import ProgramRunner
from deployfold.runtimes.protocol import Runner
from deployfold.runtimes.settings import RunSettings
from deployfold.runtimes.torchscript import TorchScriptRunner


class TwoHeads(nn.Module):
    """Two inputs, outputs in a nested structure."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 5)

    def forward(self, image: Tensor, scale: Tensor) -> tuple[Tensor, tuple[Tensor]]:
        features = torch.relu(self.norm(self.conv(image)))
        pooled = features.mean((2, 3)) * scale
        return self.linear(pooled), (pooled,)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return TwoHeads().eval()


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 3, 8, 8), torch.randn(2, 4)


@pytest.fixture(scope="module")
def files(
    net: nn.Module, inputs: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.freeze(torch.jit.trace(net, inputs)).save(str(folder / "net.ts.pt"))
        torch.onnx.export(
            net,
            inputs,
            str(folder / "net.onnx"),
            dynamo=False,
            input_names=["image", "scale"],
            output_names=["logits", "pooled"],
        )
    torch.export.save(torch.export.export(net, inputs), folder / "net.pt2")
    return folder


@pytest.fixture(params=["eager", "torchscript", "program", "onnxruntime"])
def runner(request: pytest.FixtureRequest, net: nn.Module, files: Path) -> Iterator[Runner]:
    runners: dict[str, Runner] = {
        "eager": EagerRunner(net),
        "torchscript": TorchScriptRunner(files / "net.ts.pt"),
        "program": ProgramRunner(files / "net.pt2"),
        "onnxruntime": OnnxRuntimeRunner(files / "net.onnx", RunSettings(threads=1)),
    }
    chosen = runners[request.param]
    yield chosen
    chosen.close()


def test_outputs_are_the_modules_in_order(
    runner: Runner, net: nn.Module, inputs: tuple[Tensor, Tensor]
) -> None:
    runner.load()
    with torch.no_grad():
        logits, (pooled,) = net(*inputs)
    for given in (inputs, tuple(value.numpy() for value in inputs)):
        outputs = runner.run(given)
        assert [type(value) for value in outputs] == [np.ndarray, np.ndarray]
        np.testing.assert_allclose(outputs[0], logits.numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(outputs[1], pooled.numpy(), rtol=1e-4, atol=1e-5)


def test_a_prepared_step_runs_and_leaves_the_host_clock_to_time_it(
    runner: Runner, inputs: tuple[Tensor, Tensor]
) -> None:
    runner.load()
    step = runner.prepare(inputs)
    assert step() is None
    assert step() is None


def test_the_wrong_number_of_inputs_is_a_measure_error(
    runner: Runner, inputs: tuple[Tensor, Tensor]
) -> None:
    runner.load()
    with pytest.raises(MeasureError):
        runner.run(inputs[:1])


def test_a_runner_that_is_not_loaded_or_closed_says_so(
    runner: Runner, inputs: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(MeasureError, match="not loaded"):
        runner.run(inputs)
    runner.load()
    runner.close()
    runner.close()
    with pytest.raises(MeasureError, match="not loaded"):
        runner.prepare(inputs)


@pytest.mark.parametrize("kind", [TorchScriptRunner, ProgramRunner, OnnxRuntimeRunner])
def test_missing_and_garbage_files_are_measure_errors(kind: type, tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=r"none\.bin cannot be loaded"):
        kind(tmp_path / "none.bin").load()
    garbage = tmp_path / "garbage.bin"
    garbage.write_bytes(b"not a model" * 100)
    with pytest.raises(MeasureError, match=r"garbage\.bin cannot be loaded"):
        kind(garbage).load()


def test_a_model_that_writes_into_its_input_disturbs_nobody() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(1)

    array, tensor = np.zeros((1, 2), dtype=np.float32), torch.zeros(1, 2)
    runner = EagerRunner(InPlace())
    runner.load()
    for value in (array, tensor):
        np.testing.assert_array_equal(runner.run((value,))[0], np.ones((1, 2)))
        runner.prepare((value,))()
        assert float(value.sum()) == 0.0


def test_eager_runs_without_autograd_and_leaves_the_modules_mode() -> None:
    seen: list[bool] = []

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.is_inference_mode_enabled())
            return x

    module = Watch().train()
    runner = EagerRunner(module)
    runner.load()
    runner.prepare((torch.zeros(1),))()
    runner.run((torch.zeros(1),))
    assert seen == [True, True]
    assert module.training


def test_dtypes_that_numpy_lacks_come_as_float32() -> None:
    runner = EagerRunner(nn.Identity())
    runner.load()
    (output,) = runner.run((torch.tensor([1.5, -2.0], dtype=torch.bfloat16),))
    assert output.dtype == np.float32
    assert output.tolist() == [1.5, -2.0]


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def test_onnxruntime_casts_to_the_graphs_dtype_and_counts_the_inputs(tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    example = (torch.ones(2, dtype=torch.float16),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Double(), example, str(path), dynamo=False)
    runner = OnnxRuntimeRunner(path, RunSettings(threads=1))
    runner.load()
    (output,) = runner.run((torch.tensor([1.0, 3.0]),))
    assert output.dtype == np.float16
    assert output.tolist() == [2.0, 6.0]
    with pytest.raises(MeasureError, match="takes 1 inputs, but 2 were given"):
        runner.run((*example, *example))


def test_onnxruntime_takes_the_thread_count_of_the_measurement(files: Path) -> None:
    for threads in (1, 2):
        runner = OnnxRuntimeRunner(files / "net.onnx", RunSettings(threads=threads))
        runner.load()
        options = runner._session.get_session_options()
        assert options.intra_op_num_threads == threads
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        assert runner._session.get_providers() == ["CPUExecutionProvider"]


def test_all_runtimes_in_one_measurement(
    net: nn.Module, inputs: tuple[Tensor, Tensor], files: Path
) -> None:
    result = measure(
        {
            "pytorch": EagerRunner(net),
            "torchscript": TorchScriptRunner(files / "net.ts.pt"),
            "program": ProgramRunner(files / "net.pt2"),
            "onnxruntime": OnnxRuntimeRunner(files / "net.onnx"),
            "missing": OnnxRuntimeRunner(files / "gone.onnx"),
        },
        inputs,
        threads=1,
        max_seconds=1.0,
    )
    *measured, missing = result.rows
    assert [row.not_measured for row in measured] == [None] * 4
    assert missing.not_measured == "gone.onnx cannot be loaded: there is no such file."
    for row in measured:
        assert row.outputs is not None
        assert len(row.outputs) == 2
        assert row.latency is not None
        assert row.latency.throughput == pytest.approx(2e3 / row.latency.median_ms)
