"""Residual sums whose skip is rounded too."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from lower_toys import export_module, prepared
from lowering_calls import lower_int8, lower_qdq
from qdq_nets import LOOSE, audit
from torch import nn

from deployfold.compiling.records import EngineRequest
from deployfold.compiling.tensorrt.compile import compile_engine
from deployfold.config.precision import Precision
from deployfold.exporting.session import open_session, run_session
from deployfold.exporting.storage import write_model
from deployfold.lowering.activations import observe
from deployfold.lowering.qdq.formats import INT8
from deployfold.lowering.qdq.layers import find_layers
from deployfold.lowering.qdq.quantise import REPORTED, quantise_layers
from deployfold.lowering.qdq.rest import build
from deployfold.lowering.qdq.skips import with_skips
from deployfold.util.numerics import sqnr_db


class Blocks(nn.Module):
    """A ResNet in small: a block with an identity skip, and one with a convolution on it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8, 8))
        self.c, self.d = nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.Conv2d(16, 16, 3, padding=1)
        self.down, self.head = nn.Conv2d(8, 16, 1, stride=2), nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.b(torch.relu(self.a(x))) + x)
        x = torch.relu(self.d(torch.relu(self.c(x))) + self.down(x))
        return self.head(x.mean((2, 3)))


class NoSkips(nn.Module):
    """Sums that are none: with a constant, broadcast, of what is read twice, of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 1) for _ in range(4))
        self.register_buffer("constant", torch.ones(1, 3, 8, 8))

    def forward(self, x):
        a = self.a(x) + self.constant
        mean = a.mean((2, 3), keepdim=True)
        b = self.b(a) + mean
        c = self.c(b)
        d = self.d(c + b) + 0.0 * c
        return d + d


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("residual") / "net.onnx"
    source = export_module(Blocks().eval(), (torch.randn(1, 3, 16, 16),), path)
    key = onnx.load(source).graph.input[0].name
    random = np.random.default_rng(0)
    feeds = [{key: random.standard_normal((1, 3, 16, 16)).astype("float32")} for _ in range(24)]
    return source, feeds


@pytest.mark.parametrize(
    "precision", [Precision.INT8, pytest.param(Precision.FP8, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("rest", [Precision.FP16, Precision.FP32])
def test_skips_are_rounded_and_tensorrt_rtx_builds_it(precision, rest, blocks, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    source, feeds = blocks
    artifact = lower_qdq(
        source, tmp_path / "q.onnx", precision=precision, calibration=feeds[:16],
        held_back=feeds[16:], guard=LOOSE, fallback=rest, residual=True,
    )  # fmt: skip
    assert audit(artifact.path, precision, sums=2) == 7
    assert f"2 residual sums read their skip in {precision.value}." in artifact.notes
    assert artifact.sqnr_db > 20
    graph = onnx.load(artifact.path).graph
    pairs = Counter(n.input[0] for n in graph.node if n.op_type == "QuantizeLinear")
    assert set(pairs.values()) == {1}, "what a layer and a sum read has one pair"
    request = EngineRequest("tensorrt_rtx", precision, ("sm_89",), ((8, 9),))
    assert compile_engine(artifact.path, tmp_path / "q.engine", request).bytes > 0


def test_layers_behind_the_sum_are_quantised_on_the_rounded_sum(blocks, tmp_path):
    """The pass reports the last layer's error with the pass, and not without."""
    source, feeds = blocks[0], blocks[1][:REPORTED]
    artifact = lower_int8(
        source, tmp_path / "q.onnx", calibration=feeds, held_back=feeds[:2], guard=LOOSE,
        fallback=Precision.FP32, residual=True,
    )  # fmt: skip
    both = [open_session(path, optimize=False) for path in (source, artifact.path)]
    exact, given = ([run_session(session, feed)[0] for feed in feeds] for session in both)
    (head,) = (layer for layer in artifact.layers if layer.name == "head")
    assert head.sqnr_db == pytest.approx(sqnr_db(exact, given), abs=0.01)


def test_a_convolution_that_is_put_back_leaves_its_skip_alone(tmp_path):
    model, feeds = prepared(Blocks(), torch.randn(2, 3, 16, 16), tmp_path)
    layers = with_skips(model, find_layers(model))
    ends = [layer.name for layer in layers if layer.skip is not None]
    for excluded in (ends[:1], ends):
        results = quantise_layers(ir.to_proto(model), layers, feeds, INT8, excluded=excluded)
        quantised, _ = build(ir.to_proto(model), results, INT8, None)
        write_model(quantised, tmp_path / "q.onnx")
        audit(tmp_path / "q.onnx", sums=2 - len(excluded))


def test_only_sums_of_a_convolution_and_what_was_computed_before(tmp_path):
    model, _ = prepared(Blocks(), torch.randn(1, 3, 16, 16), tmp_path)
    found = {layer.weight: layer.skip for layer in with_skips(model, find_layers(model))}
    producer = {value.name: node for node in model.graph for value in node.outputs}
    skips = {name: producer[skip.source].op_type for name, skip in found.items() if skip}
    assert skips == {"b.weight": "Relu", "down.weight": "Conv"}
    model, feeds = prepared(NoSkips(), torch.randn(2, 3, 8, 8), tmp_path)
    layers = with_skips(model, find_layers(model))
    assert [layer.skip is not None for layer in layers] == [False, True, False, False]
    results = quantise_layers(ir.to_proto(model), layers, feeds, INT8)
    assert all(result.quantised.skip_scale is None for result in results), "it is broadcast"


def test_the_range_of_a_skip_that_no_layer_reads_follows_the_choice_of_the_model(tmp_path):
    model, feeds = prepared(Blocks(), torch.randn(4, 3, 32, 32), tmp_path)
    layers, proto = with_skips(model, find_layers(model)), ir.to_proto(model)
    cut, whole = (
        {r.layer.weight: r.quantised for r in quantise_layers(proto, layers, feeds, INT8, cut=cut)}
        for cut in (True, False)
    )
    (name,) = {layer.skip.source for layer in layers if layer.weight == "down.weight"}
    largest = max(np.abs(value).max() for _, value in observe(model, [name], feeds))
    assert cut["down.weight"].skip_scale * 127 < 0.95 * largest
    assert whole["down.weight"].skip_scale * 127 == pytest.approx(largest, rel=0.03)
