"""Where Q/DQ nodes stand in one network with every case, and what TensorRT-RTX makes of them.

The rules are those of TensorRT's documentation on explicit quantization: Q/DQ in front of layers
with weights, and of sums that are fused with such a layer; none behind a layer; a quantiser moves
in front of operators that commute with it (concatenations, pools), so that one pair behind serves.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from int8_layers import int8_layers
from lower_toys import prepared
from torch import nn

from deployfold.compiling.records import EngineRequest
from deployfold.compiling.tensorrt.builder import build
from deployfold.config.precision import Precision
from deployfold.exporting.storage import write_model
from deployfold.lowering.qdq.formats import INT8
from deployfold.lowering.qdq.layers import find_layers
from deployfold.lowering.qdq.quantise import quantise_layers
from deployfold.lowering.qdq.rest import Rest
from deployfold.lowering.qdq.rest import build as build_model
from deployfold.lowering.qdq.skips import with_skips


class EveryCase(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.left, self.right = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.join = nn.Conv2d(32, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.project, self.last = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 8)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        both = torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1)
        inner = torch.relu(self.depthwise(torch.relu(self.join(both))))
        x = nn.functional.avg_pool2d(torch.relu(self.project(inner) + x), 2)
        tokens = torch.relu(self.last(nn.functional.max_pool2d(x, 2))).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, -1)
        return self.out(torch.softmax(q @ k.transpose(1, 2) / 4, -1) @ v)


PLACES = {
    "x": ("input", ["stem"]),
    "one pair for all readers, none for the skip of the sum": ("Relu", ["left", "right"]),
    "one scale for all parts of a concatenation, behind it": ("Concat", ["join"]),
    "a depthwise convolution as any other": ("Relu", ["depthwise"]),
    "behind the activation": ("Relu", ["project"]),
    "behind the pools, which run in fp16 in front of it": ("MaxPool", ["last"]),
    "a linear layer": ("Transpose", ["qkv"]),
    "the product of two activations has none in front, the layer behind has": ("MatMul", ["out"]),
}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "residual"])
def lowered(request, tmp_path_factory):
    """The network in INT8 without and with quantised skips: the file, and which of the two."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("placement") / "int8.onnx"
    model, feeds = prepared(EveryCase(), torch.randn(2, 3, 8, 8), path.parent)
    layers = find_layers(model)
    if request.param:
        layers = with_skips(model, layers)
    proto = ir.to_proto(model)
    results = quantise_layers(proto, layers, feeds, INT8, strengths=())
    quantised, _ = build_model(proto, results, INT8, Rest(Precision.FP16))
    write_model(quantised, path)
    return path, request.param


def placed(path: Path) -> list[tuple[str, list[str]]]:
    """For each quantised activation: what makes it, and the layers or operators that read it."""
    graph = onnx.load(path).graph
    maker = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for quantise in (node for node in graph.node if node.op_type == "QuantizeLinear"):
        source = maker.get(quantise.input[0])
        while source is not None and source.op_type == "Cast":
            source = maker.get(source.input[0])
        (restore,) = readers[quantise.output[0]]
        users = [name_of(user, maker) for user in readers[restore.output[0]]]
        found.append(("input" if source is None else source.op_type, users))
    return found


def name_of(node: onnx.NodeProto, maker: dict[str, onnx.NodeProto]) -> str:
    """The module of a layer, by its dequantised weight; else the operator."""
    made = maker.get(node.input[1]) if len(node.input) > 1 else None
    layers = ("Conv", "Gemm", "MatMul")
    if node.op_type not in layers or made is None or made.op_type != "DequantizeLinear":
        return node.op_type
    return made.input[0].split("/")[1].split("_")[0] if "/" in made.input[0] else made.input[0]


def test_every_pair_stands_where_tensorrt_fuses_it(lowered):
    path, residual = lowered
    expected = list(PLACES.values())
    if residual:
        expected[1] = ("Relu", ["left", "right", "Add"])
    assert placed(path) == expected


def test_layers_with_two_int8_operands_are_counted(lowered, tmp_path):
    path, _ = lowered
    assert int8_layers(path) == "9 of 11", "all but the two products of attention"
    model = onnx.load(path)
    stem = next(node for node in model.graph.node if node.op_type == "Conv")
    stem.input[0] = model.graph.input[0].name
    onnx.save(model, tmp_path / "weights.onnx")
    assert int8_layers(tmp_path / "weights.onnx") == "8 of 11", "int8 weights alone do not count"


def test_the_engine_computes_in_int8_where_the_file_says_so(lowered, tmp_path):
    trt = pytest.importorskip("tensorrt_rtx")
    path, _ = lowered
    request = EngineRequest("tensorrt_rtx", Precision.INT8, ("sm_89",), ((8, 9),))
    listing = build(trt, request, path, tmp_path / "net.engine", lambda *_: None).listing
    found = [(one.asked, one.got) for one in listing.layers]
    assert found.count(("int8", "int8")) == len(PLACES) + 1
    assert found.count(("fp16", "fp16")) == 2, "the two products of attention"
    assert len(found) == len(PLACES) + 3
