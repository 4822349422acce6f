"""The time of each layer, from the profilers of ONNX Runtime and TensorRT."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorrt_rtx
import torch
from copying_engine import CopyingContext, CopyingEngine
from torch import nn

import deployfold
from deployfold.errors import MeasureError
from deployfold.measuring.layer_times import layer_times
from deployfold.runtimes.cuda import Cuda
from deployfold.runtimes.eager import EagerRunner
from deployfold.runtimes.onnxruntime import OnnxRuntimeRunner
from deployfold.runtimes.settings import RunSettings
from deployfold.runtimes.tensorrt_engine import EngineRunner
from deployfold.runtimes.tensorrt_library import Context
from deployfold.runtimes.tensorrt_load import LoadedEngine

IMAGE = torch.zeros(1, 8, 8, 8)


class Residual(nn.Module):
    """Convolutions that ONNX Runtime fuses with what follows, the last with a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.branch = nn.Conv2d(16, 16, 3, padding=1)
        self.act = nn.ReLU()
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.act(x + self.branch(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("layers") / "net.onnx"
    deployfold.export(Residual().eval(), (IMAGE,), path.parent, formats=("onnx",), name="net")
    return path


def test_every_kernel_of_onnxruntime_has_the_module_that_it_computes(onnx_file: Path) -> None:
    times = layer_times(OnnxRuntimeRunner(onnx_file, RunSettings(threads=1)), [IMAGE], calls=4)
    assert times is not None
    assert times.not_measured is None
    assert times.calls == 4
    found = [one.module for one in times.layers if "Conv" in one.kind or one.kind == "Gemm"]
    assert found == ["stem.0", "branch", "head"]
    assert all(one.ms > 0 for one in times.layers)


def test_a_runtime_that_tells_no_times_is_left_out() -> None:
    assert layer_times(EagerRunner(Residual()), [IMAGE]) is None


def test_a_file_that_does_not_load_says_why(tmp_path: Path) -> None:
    times = layer_times(OnnxRuntimeRunner(tmp_path / "gone.onnx"), [IMAGE])
    assert times is not None
    assert "there is no such file" in str(times.not_measured)


class ProfiledContext(CopyingContext):
    """Reports two layers for each run after a profiler was set, the second slower each time."""

    profiler: Any = None
    enqueue_emits_profile = False
    reports = True

    def execute_async_v3(self, stream_handle: int) -> bool:
        ran = super().execute_async_v3(stream_handle)
        if self.profiler is not None and self.enqueue_emits_profile and self.reports:
            self.profiler.report_layer_time("conv + relu", 0.5)
            self.profiler.report_layer_time("Reformatting CopyNode", 0.1 * self.runs)
        return ran


class InspectedEngine(CopyingEngine):
    def create_engine_inspector(self) -> Any:
        layers = [
            {"Name": "conv + relu", "LayerType": "CaskConvolution",
             "Metadata": "[ONNX Layer: node_conv]\x1e[ONNX Layer: node_relu]"},
            {"Name": "Reformatting CopyNode", "LayerType": "Reformat", "Metadata": ""},
        ]  # fmt: skip
        text = json.dumps({"Layers": layers, "Bindings": []})
        return SimpleNamespace(get_engine_information=lambda form: text)


@pytest.fixture
def profiled(library: str) -> Any:
    cuda = Cuda(library)
    runner = EngineRunner(Path("net.engine"), cuda, RunSettings(cuda_graph=False))
    context = ProfiledContext(cuda)
    runner.take(LoadedEngine(tensorrt_rtx, [], None, None, InspectedEngine(), Context(context)))
    yield runner, context
    runner.close()
    cuda.close()


def test_an_engine_gives_the_median_of_each_layer_and_its_onnx_nodes(profiled: Any) -> None:
    runner, context = profiled
    runner.bind({"x": np.ones((2, 2), np.float32)})
    before = context.runs
    profile = runner.profile(3)
    convolution, reformat = profile.layers
    assert context.runs == before + 5 + 3, "the warm-up comes before the profiler"
    assert convolution.onnx_nodes == ("node_conv", "node_relu")
    assert (convolution.kind, convolution.ms) == ("CaskConvolution", 0.5)
    assert (reformat.kind, reformat.onnx_nodes) == ("Reformat", ())
    assert reformat.ms == pytest.approx(0.1 * (before + 5 + 2)), "the median of three"
    assert profile.details is not None
    assert len(profile.details["Layers"]) == 2


def test_an_engine_that_reports_no_layer_is_not_measured(profiled: Any) -> None:
    runner, context = profiled
    runner.bind({"x": np.ones((2, 2), np.float32)})
    context.reports = False
    with pytest.raises(MeasureError, match="the time of no layer"):
        runner.profile(2)
