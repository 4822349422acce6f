"""``--tune``: Q/DQ nodes stay where they pay."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from lower_toys import export_module
from torch import nn

from deployfold.config.accuracy import GuardSpec
from deployfold.config.precision import Precision
from deployfold.exporting.session import open_session, run_session
from deployfold.lowering import lower
from deployfold.lowering.accuracy import Measured
from deployfold.lowering.qdq.guard import Step
from deployfold.lowering.qdq.layers import Layer, QuantisedLayer
from deployfold.lowering.qdq.quantise import LayerResult
from deployfold.lowering.qdq.tune import segments, tune
from deployfold.lowering.request import LoweringData, LoweringOptions, Tuning
from deployfold.reporting.row import Speedup


class Body(nn.Module):
    """Two residual blocks of unequal cost behind a stem."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.d = nn.Conv2d(8, 32, 3, padding=1), nn.Conv2d(32, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.b(torch.relu(self.a(x))))
        return torch.relu(x + self.d(torch.relu(self.c(x))))


@pytest.fixture(scope="module")
def body(tmp_path_factory) -> tuple[Path, LoweringData]:
    source = export_module(
        Body().eval(), (torch.randn(1, 3, 12, 12),), tmp_path_factory.mktemp("tune") / "net.onnx"
    )
    random = np.random.default_rng(0)
    key = onnx.load(source).graph.input[0].name
    feeds = [{key: random.standard_normal((1, 3, 12, 12), np.float32)} for _ in range(24)]
    return source, LoweringData(
        feeds[:1], calibration=feeds[:16], held_back=feeds[16:20], judged=feeds[20:],
        calibration_origin="noise", calibration_real=True,
    )  # fmt: skip


def result(name: str, macs: int, quantised: bool = True) -> LayerResult:
    layer = Layer(name, "Conv", "x", "y", "w", None, 0)
    codes = QuantisedLayer(layer, np.zeros(1), np.ones(1), None, 1.0)
    return LayerResult(layer, codes if quantised else None, "max", 1.0, 30.0, macs)


def graph_of(source: Path) -> tuple[ir.Graph, list[str]]:
    graph = ir.load(source).graph
    return graph, [str(node.name) for node in graph if node.op_type == "Conv"]


def test_a_region_ends_where_one_activation_passes(body):
    """The first layer of a residual block never ends a segment: the skip passes it too."""
    graph, (stem, a, b, c, d) = graph_of(body[0])
    even = [result(name, 10) for name in (stem, a, b, c, d)]
    assert [[one.layer.name for one in segment] for segment in segments(graph, even)] == [
        [stem], [a], [b], [c], [d],
    ], "above a sixth each, segments end anywhere"  # fmt: skip
    small = [result(name, 1) for name in (stem, a, b)] + [result(c, 10), result(d, 10)]
    assert [[one.layer.name for one in segment] for segment in segments(graph, small)] == [
        [stem, a, b], [c], [d],
    ]  # fmt: skip
    left = [result(stem, 1, quantised=False), *small[1:]]
    assert [one.layer.name for one in segments(graph, left)[0]] == [a, b]


class Job:
    """A model whose accuracy falls to ``sqnr`` once anything goes back, ``likely`` on others."""

    def __init__(self, sqnr: float = 30.0, anew: float = 30.0, likely: float = 30.0) -> None:
        self.sqnr, self.anew, self.likely = sqnr, anew, likely
        self.files: dict[str, frozenset[str]] = {}

    def written(self, results, name: str) -> Path:
        self.files[name] = frozenset(r.layer.name for r in results if r.quantised is not None)
        return Path(name)

    def measured(self, results) -> Step:
        found = Measured(self.sqnr, 0.0, None, None, None, None, None, 0.0)
        return Step(results, dataclasses.replace(found, likely_sqnr_db=self.likely))

    def attempt(self, excluded: frozenset[str], anew: bool = False) -> Step:
        results = [result(name, macs, name not in excluded) for name, macs in MACS.items()]
        return dataclasses.replace(self.measured(results), measured=Measured(
            self.anew, 0.0, None, None, None, None, None, 0.0))  # fmt: skip


MACS: dict[str, int] = {}


@pytest.fixture
def five(body, monkeypatch) -> tuple[ir.Graph, list[str], Step]:
    graph, names = graph_of(body[0])
    for name in names:
        monkeypatch.setitem(MACS, name, 10)
    return graph, names, Job().attempt(frozenset())


def timed(job: Job, gain: Callable[[frozenset[str]], float], noise: float = 0.0) -> Tuning:
    """The speed-up is the gain of the layers that only the first file quantises."""

    def compare(first: Path, second: Path) -> Speedup:
        value = gain(job.files[first.name] - job.files[second.name])
        return Speedup(value=value, low=value - noise, high=value + noise)

    return Tuning("a GPU", compare)


def test_only_regions_that_pay_stay_quantised(five):
    graph, (stem, a, b, c, d), step = five
    gains = {stem: 0.0, a: 0.003, b: 0.005, c: 0.02, d: -0.1}
    job = Job()
    found = tune(job, graph, step, timed(job, lambda names: 1 + sum(map(gains.get, names))),
                 GuardSpec(min_quantized_share=0.1))  # fmt: skip
    assert set(found.reasons) == {stem, a, d}, "a fifth of the work must gain 0.4 %"
    kept = [one.layer.name for one in found.step.results if one.quantised is not None]
    assert kept == [b, c]
    assert "gain 0.900 [0.900, 0.900] times" in found.reasons[d]
    assert "5 segments on a GPU, and put back 3 layers" in found.notes[0]
    assert "1.02 times as fast as one without" in found.notes[-1]


def test_a_gain_within_the_noise_is_no_gain(five):
    graph, _, step = five
    job = Job()
    found = tune(job, graph, step, timed(job, lambda names: 1.01, noise=0.02),
                 GuardSpec(min_quantized_share=0.5))  # fmt: skip
    assert len(found.reasons) == 2, "then half of the work would be left"
    assert "3 segments gain nothing, and stay for --min-quantized-share." in found.notes
    assert "take --fp16" in found.notes[-1]


@pytest.mark.parametrize(
    ("sqnr", "anew", "likely", "limits", "back"),
    [
        (30, 0, 30, {}, 1), (10, 30, 30, {}, 1), (10, 10, 30, {}, 0), (30, 10, 19, {}, 0),
        (10, 10, 30, {"enabled": False}, 1),
    ],
)  # fmt: skip
def test_the_accuracy_limits_hold_after_tuning(five, sqnr, anew, likely, limits, back):
    """A model that misses them is fitted anew; if that fails too, everything stays quantised."""
    graph, names, step = five
    job = Job(sqnr, anew, likely)
    tuning = timed(job, lambda quantised: 0.9 if names[0] in quantised else 1.1)
    found = tune(job, graph, step, tuning, GuardSpec(min_quantized_share=0.1, **limits))
    assert len(found.reasons) == back
    assert (found.step is step) == (back == 0)


def test_the_shipped_file_is_the_tuned_one(body, tmp_path):
    """Timed by a rule on the files themselves: only c, the most expensive layer, gains."""
    source, data = body

    def compare(first: Path, second: Path) -> Speedup:
        value = 1.1 if "c" in int8_weights(first) - int8_weights(second) else 0.99
        return Speedup(value=value, low=value, high=value)

    options = LoweringOptions(
        guard=GuardSpec(min_quantized_share=0.1), rest=Precision.FP32,
        tuning=Tuning("a GPU", compare),
    )  # fmt: skip
    made = lower(source, tmp_path / "net.int8.onnx", Precision.INT8, data, options)
    assert int8_weights(made.path) == {"c"}
    reasons = {layer.name: layer.reason for layer in made.layers if layer.reason}
    assert set(reasons) == {"stem", "a", "b", "d"}
    assert all("--tune" in reason for reason in reasons.values())
    both = [open_session(path) for path in (source, made.path)]
    exact, given = ([run_session(one, feed)[0] for feed in data.judged] for one in both)
    noise = sum(float(((a - b) ** 2).sum()) for a, b in zip(exact, given, strict=True))
    power = sum(float((a**2).sum()) for a in exact)
    assert made.sqnr_db == pytest.approx(10 * math.log10(power / noise), abs=0.1)


def int8_weights(path: Path) -> set[str]:
    """The layers with int8 weights, told by the channels of the weight."""
    names = {(8, 3): "stem", (8, 8): "a or b", (32, 8): "c", (8, 32): "d"}
    tensors = onnx.load(path).graph.initializer
    int8 = onnx.TensorProto.INT8
    return {
        names[tuple(one.dims)[:2]] for one in tensors if one.data_type == int8 and len(one.dims) > 1
    }
