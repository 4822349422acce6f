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


def _framed(g: GraphWriter) -> str:
    pads = g.constant([0, 0, 1, 1, 0, 0, 1, 1])
    return g.node("Pad", _permuted(g), pads, g.weight(np.uint8(114)))


def _resized(g: GraphWriter) -> str:
    scales = g.weight(np.float32([1, 1, 2, 2]))
    return g.node("Resize", _permuted(g), "", scales, mode="nearest")


def _limited(g: GraphWriter) -> str:
    return g.node("Clip", _permuted(g), g.weight(np.uint8(9)), g.weight(np.uint8(200)))


def _pooled(g: GraphWriter) -> str:
    return g.node("MaxPool", _permuted(g), outputs=2, kernel_shape=[2, 2], strides=[2, 2])[0]


def _chosen(g: GraphWriter) -> str:
    x = _permuted(g)
    zeros = g.node("Expand", g.weight(np.uint8(0)), g.constant([1, 3, 8, 8]))
    return g.node("Where", g.node("Greater", x, g.weight(np.uint8(99))), x, zeros)


def _joined(g: GraphWriter) -> str:
    """Nine parts, one of them constant and one of another input."""
    x = _permuted(g)
    parts = [x] * 7 + [g.weight(np.full((1, 3, 8, 8), 7, np.uint8))]
    return g.node("Concat", *parts, g.node("Transpose", "other", perm=[0, 3, 1, 2]), axis=2)


def _model(make: Callable[[GraphWriter], str], to: int = FLOAT) -> onnx.ModelProto:
    g = GraphWriter(17)
    x = g.node("Cast", make(g), to=to)
    x = g.node("Cast", x, to=FLOAT) if to != FLOAT else x
    g.rename(g.conv(x, 3, 4, 1), "y")
    frame = (UINT8, [1, 8, 8, 3])
    frames = {"frame": frame} | ({"other": frame} if make is _joined else {})
    return g.model(frames, {"y": (FLOAT, [None, 4, None, None])})


def _run(proto: onnx.ModelProto) -> list[np.ndarray]:
    x = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = {value.name: x + np.uint8(7 * place) for place, value in enumerate(proto.graph.input)}
    return [np.asarray(one) for one in session.run(None, feeds)]


@pytest.mark.parametrize(
    "make",
    [
        _permuted, _turned, _cropped, _doubled, _framed, _resized, _limited, _pooled, _chosen,
        _joined,
    ],
)  # fmt: skip
@pytest.mark.parametrize("to", [FLOAT, onnx.TensorProto.FLOAT16])
def test_the_cast_comes_first(make: Callable[[GraphWriter], str], to: int) -> None:
    _check(_model(make, to))


def _check(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Only casts read the inputs of the changed model, which gives the same outputs."""
    model = ir.from_proto(proto)
    prepare(model)
    names = {value.name for value in proto.graph.input}
    assert cast_first(model) == len(names)
    changed = ir.to_proto(model)
    onnx.checker.check_model(changed, full_check=True)
    assert {one.op_type for one in changed.graph.node if names & set(one.input)} == {"Cast"}
    for before, after in zip(_run(proto), _run(changed), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)
    assert cast_first(model) == 0  # done
    return changed


def test_pixels_among_the_outputs_are_cast_back() -> None:
    g = GraphWriter(17)
    x = g.rename(_cropped(g), "crop")
    g.rename(g.conv(g.node("Cast", x, to=FLOAT), 3, 4, 1), "y")
    g.rename(g.node("Cast", x, to=onnx.TensorProto.INT64), "levels")
    outputs = {"y": (FLOAT, None), "crop": (UINT8, None), "levels": (onnx.TensorProto.INT64, None)}
    changed = _check(g.model({"frame": (UINT8, [1, 8, 8, 3])}, outputs))
    assert [value.name for value in changed.graph.output] == list(outputs)


def _added(g: GraphWriter) -> str:
    """255 + 2 is 1 in uint8."""
    return g.node("Add", _permuted(g), g.weight(np.uint8(2)))


def _blurred(g: GraphWriter) -> str:
    """Rounded in uint8."""
    scales = g.weight(np.float32([1, 1, 2, 2]))
    return g.node("Resize", _permuted(g), "", scales, mode="linear")


@pytest.mark.parametrize("make", [_added, _blurred])
def test_pixels_that_are_computed_with_stay(make: Callable[[GraphWriter], str]) -> None:
    model = ir.from_proto(_model(make))
    prepare(model)
    assert cast_first(model) == 0
