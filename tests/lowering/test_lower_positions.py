"""Positions and longer sequences, which the inputs of a build do not show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from fragile_nets import true_sqnr_db
from lower_toys import FLOAT, node, node_types
from lowering_calls import lower_cast
from onnx import TensorProto, helper, numpy_helper

from deployfold.config.inputs import InputSpec, TensorSpec
from deployfold.config.optimization_profiles import InputShapes
from deployfold.config.precision import Precision
from deployfold.data.largest import largest_feeds
from deployfold.lowering import lower
from deployfold.lowering.accuracy import Measurer
from deployfold.lowering.request import LoweringData

INT64 = TensorProto.INT64
FREQUENCIES = (10000.0 ** (-np.arange(16) / 16)).astype(np.float32)


def write(path: Path, nodes, inputs, shape, weights) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info("out", FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def time_step(path: Path, dtype: int) -> Path:
    """The sine of a time step at 16 frequencies, then a layer, as diffusion models have it."""
    nodes = [
        *([node("Cast", "t", "float", to=FLOAT)] if dtype != FLOAT else []),
        node("Mul", "t f" if dtype == FLOAT else "float f", "angle"),
        node("Sin", "angle", "sin"),
        node("MatMul", "sin w", "out"),
    ]
    w = np.random.default_rng(0).standard_normal((16, 8), np.float32)
    return write(path, nodes, [("t", dtype, [4, 1])], [4, 8], {"f": FREQUENCIES, "w": w})


def outer_product(path: Path) -> Path:
    """Rotary positions of a language model: frequencies, expanded at run time, times positions."""
    nodes = [
        node("Shape", "t", "shape"),
        node("Gather", "shape zero", "batch"),
        node("Concat", "batch rest", "wide", axis=0),
        node("Expand", "f wide", "expanded"),
        node("Unsqueeze", "t one", "row"),
        node("Cast", "row", "float", to=FLOAT),
        node("MatMul", "expanded float", "angle"),
        node("Cos", "angle", "cos"),
        node("MatMul", "w cos", "out"),
    ]
    weights = {
        "zero": np.array([0]), "one": np.array([1]), "rest": np.array([16, 1]),
        "f": FREQUENCIES.reshape(1, 16, 1),
        "w": np.random.default_rng(0).standard_normal((8, 16), np.float32),
    }  # fmt: skip
    return write(path, nodes, [("t", INT64, ["n", 4])], ["n", 8, 4], weights)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
@pytest.mark.parametrize(
    ("make", "shape", "dtype"),
    [
        (lambda path: time_step(path, INT64), (4, 1), np.int64),
        (lambda path: time_step(path, FLOAT), (4, 1), np.float32),
        (outer_product, (1, 4), np.int64),
    ],
    ids=["time step", "float time step", "outer product"],
)
def test_positions_beyond_the_given_ones_stay_exact(make, shape, dtype, precision, tmp_path):
    """Inputs of 0 and 1 gave 67 dB in fp16; at time step 999 the file had 33, and in bf16 11."""
    source, path = make(tmp_path / "net.onnx"), tmp_path / "lowered.onnx"
    seen = [{"t": np.arange(4).reshape(shape).astype(dtype) % 2}]
    lower_cast(source, path, precision, inputs=seen)
    types = node_types(path)
    assert types["n_angle"] == FLOAT
    assert types["n_out"] != FLOAT
    if precision is Precision.FP16:
        later = [{"t": np.array([999, 513, 77, 4093]).reshape(shape).astype(dtype)}]
        assert true_sqnr_db(source, path, later) > 55


def test_masks_and_pictures_are_not_positions(tmp_path):
    nodes = [
        node("Cast", "mask", "float", to=FLOAT),
        node("Mul", "float x", "out"),
    ]
    for dtype in (TensorProto.BOOL, TensorProto.UINT8):
        inputs = [("mask", dtype, [1, 8]), ("x", FLOAT, [1, 8])]
        source = write(tmp_path / "net.onnx", nodes, inputs, [1, 8], {})
        feed = {
            "mask": np.ones((1, 8), helper.tensor_dtype_to_np_dtype(dtype)),
            "x": np.ones((1, 8), np.float32),
        }
        made = lower_cast(source, tmp_path / "fp16.onnx", Precision.FP16, inputs=[feed])
        assert not made.kept


def test_a_sum_over_the_longest_sequence_does_not_overflow(tmp_path):
    """Sums of 16 values fitted float16; at the profile's 4096 the file gave infinity."""
    nodes = [node("MatMul", "x w", "y"), node("ReduceSum", "y axis", "out", keepdims=0)]
    weights = {"axis": np.array([1]), "w": np.full((8, 8), 4, np.float32)}
    source = write(tmp_path / "net.onnx", nodes, [("x", FLOAT, [1, "n", 8])], [1, 8], weights)
    short, long = (InputShapes("x", (1, 2, 8), (1, 16, 8), (1, most, 8)) for most in (16, 4096))
    feed = {"x": np.full((1, 16, 8), 1 / 3, np.float32)}
    kept = {}
    for name, profile in (("short", short), ("long", long)):
        spec = InputSpec((TensorSpec((1, 16, 8), "x"),), profiles=((profile,),))
        data = LoweringData(inputs=[feed], largest=largest_feeds(spec, feed))
        made = lower(source, tmp_path / f"{name}.onnx", Precision.FP16, data)
        kept[name] = [one.name for one in made.kept]
    assert kept == {"short": [], "long": ["n_out"]}
    longest = [{"x": np.full((1, 4096, 8), 1 / 3, np.float32)}]
    assert true_sqnr_db(source, tmp_path / "long.onnx", longest) > 55


def test_the_largest_inputs_leave_the_batch_alone():
    spec = InputSpec(
        (TensorSpec((1, 3), "a", "int64"), TensorSpec((1, 2), "b"), TensorSpec((), "scale")),
        profiles=tuple(
            (
                InputShapes("a", (1, least), (1, 3), (batch, most)),
                InputShapes("b", (1, 2), (1, 2), (batch, 2)),
                InputShapes("scale", (), (), ()),
            )
            for least, batch, most in ((1, 8, 5), (3, 64, 3))
        ),
    )
    feed = {"a": np.array([[4, 5, 6]]), "b": np.ones((1, 2), np.float32), "scale": np.array(2.0)}
    (largest,) = largest_feeds(spec, feed)
    assert largest["a"].tolist() == [[4, 5, 6, 4, 5]]
    assert largest["b"].shape == (1, 2)
    assert largest["scale"] == 2


def test_wrong_integers_are_told(tmp_path):
    """A class or an index beside scores is outside the SQNR, and was outside the report."""
    nodes = [node("Relu", "x", "out"), node("Cast", "x", "index", to=INT64)]
    source = write(tmp_path / "net.onnx", nodes, [("x", FLOAT, [1, 4])], [1, 4], {})
    model = onnx.load(source)
    model.graph.output.append(helper.make_tensor_value_info("index", INT64, [1, 4]))
    onnx.save(model, source)
    x = np.array([[1, 2, 3, 4]], np.float32)
    measurer = Measurer(source, [{"x": x}], None)
    right, wrong = (
        measurer.compare([[x], [index]]) for index in (x.astype(int), x.astype(int) // 4 * 4)
    )
    assert (right.sqnr_db, wrong.sqnr_db) == (np.inf, np.inf)
    assert right.not_counted("fp16") == ()
    assert wrong.not_counted("fp16") == (
        "index: 25 % of its integers are the same in fp16 as in fp32",
    )
    gone = measurer.compare([[x], [np.zeros((0,), int)]])
    assert "index: another shape" in gone.not_counted("fp16")[0]
