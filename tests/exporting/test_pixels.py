"""The cast of uint8 pictures moves in front of what only moves pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_files import FLOAT, GraphWriter

from deployfold.exporting.pixels import cast_first
from deployfold.lowering.graph import prepare

UINT8 = onnx.TensorProto.UINT8


def _permuted(g: GraphWriter) -> str:
    return g.node("Transpose", "frame", perm=[0, 3, 1, 2])


def _turned(g: GraphWriter) -> str:
    return g.node("Gather", _permuted(g), g.constant([2, 1, 0]), axis=1)


def _cropped(g: GraphWriter) -> str:
    return g.node("Slice", _turned(g), g.constant([1]), g.constant([7]), g.constant([2]))


def _doubled(g: GraphWriter) -> str:
    x = _permuted(g)
    return g.node("Concat", x, g.node("Identity", x), axis=2)


def _model(make: Callable[[GraphWriter], str], to: int = FLOAT) -> onnx.ModelProto:
    g = GraphWriter(17)
    x = g.node("Cast", make(g), to=to)
    x = g.node("Cast", x, to=FLOAT) if to != FLOAT else x
    g.rename(g.conv(x, 3, 4, 1), "y")
    return g.model({"frame": (UINT8, [1, 8, 8, 3])}, {"y": (FLOAT, [None, 4, None, None])})


def _run(proto: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"frame": x})
    return np.asarray(found)


@pytest.mark.parametrize("make", [_permuted, _turned, _cropped, _doubled])
@pytest.mark.parametrize("to", [FLOAT, onnx.TensorProto.FLOAT16])
def test_the_cast_comes_first(make: Callable[[GraphWriter], str], to: int) -> None:
    proto = _model(make, to)
    model = ir.from_proto(proto)
    prepare(model)
    assert cast_first(model) == 1
    changed = ir.to_proto(model)
    onnx.checker.check_model(changed, full_check=True)
    assert changed.graph.node[0].op_type == "Cast"
    assert [one.op_type for one in changed.graph.node if "frame" in one.input] == ["Cast"]
    np.testing.assert_array_equal(_run(changed), _run(proto))
    assert cast_first(model) == 0  # done


def _compared(g: GraphWriter) -> str:
    g.node("Equal", _permuted(g), g.weight(np.uint8(3)))
    return g.nodes[-2].output[0]


def _limited(g: GraphWriter) -> str:
    return g.node("Clip", _permuted(g), "", g.weight(np.uint8(200)))


@pytest.mark.parametrize("make", [_compared, _limited])
def test_pixels_that_are_computed_with_stay(make: Callable[[GraphWriter], str]) -> None:
    model = ir.from_proto(_model(make))
    prepare(model)
    assert cast_first(model) == 0
