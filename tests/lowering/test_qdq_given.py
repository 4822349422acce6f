"""Models with Q/DQ nodes: their scales stay, and BatchNorms fold into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from qdq_trained import SHAPE, trained

from deployfold.config.precision import Precision
from deployfold.errors import ExportError, UsageError
from deployfold.folding.onnx import fold_graph
from deployfold.lowering import lower
from deployfold.lowering.graph import prepare
from deployfold.lowering.qdq.given import clip_values, quantised_as, take_over, without_pairs
from deployfold.lowering.qdq.given_weights import VisibleWeights
from deployfold.lowering.request import LoweringData


def prepared(model: onnx.ModelProto) -> ir.Model:
    read = ir.from_proto(model)
    prepare(read)
    return read


def folded(model: onnx.ModelProto) -> ir.Model:
    read = prepared(model)
    clip_values(read)
    take_over(read)
    weights = VisibleWeights(read)
    found = fold_graph(read)
    weights.hide()
    assert len(found.folded) == 1, found.left
    return read


def run(model: ir.Model | onnx.ModelProto) -> np.ndarray:
    """The output, computed without ONNX Runtime's own int8 kernels."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
    session = ort.InferenceSession(proto.SerializeToString(), options)
    (entry,) = session.get_inputs()
    x = np.random.default_rng(1).standard_normal(entry.shape).astype(np.float32)
    (output,) = session.run(None, {"x": x})
    return output


def weights_of(model: ir.Model) -> tuple[np.ndarray, np.ndarray]:
    """The codes and scales of the layer's weight."""
    (layer,) = (node for node in model.graph if node.name == "layer")
    maker = layer.inputs[1].producer()
    assert maker.op_type == "DequantizeLinear"
    return tuple(value.const_value.numpy() for value in maker.inputs[:2])


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize("stored", ["codes", "floats"])
@pytest.mark.parametrize("negative", [False, True])
def test_a_batchnorm_folds_into_scales_and_leaves_the_codes(stored, negative, product) -> None:
    before = trained(stored=stored, negative=negative, product=product)
    after = folded(before)
    codes, steps = weights_of(after)
    arrays = {t.name: numpy_helper.to_array(t) for t in before.graph.initializer}
    np.testing.assert_array_equal(codes, arrays["codes"] * (-1 if negative else 1))
    factor = np.abs(arrays["gamma"]) / np.sqrt(arrays["variance"] + 1e-5)
    np.testing.assert_allclose(steps, arrays["steps"] * factor, rtol=1e-6)
    np.testing.assert_allclose(run(after), run(before), atol=1e-5)
    kinds = [node.op_type for node in after.graph]
    assert kinds.count("QuantizeLinear") == 1, "the weight's is gone, the activation's stays"
    assert "BatchNormalization" not in kinds


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_folding_keeps_the_function_of_any_trained_layer(seed: int) -> None:
    before = trained(seed=seed)
    np.testing.assert_allclose(run(folded(before)), run(before), atol=1e-4)


def test_without_a_batchnorm_nothing_of_a_weight_changes() -> None:
    read = prepared(trained())
    for node in [one for one in read.graph if one.op_type == "BatchNormalization"]:
        ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
        read.graph.remove(node, safe=True)
    before = weights_of(read)
    take_over(read)
    VisibleWeights(read).hide()
    for one, other in zip(before, weights_of(read), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_middle_of_uint8_becomes_zero_of_int8() -> None:
    before = trained(zero=128, unsigned=True)
    after = prepared(before)
    assert quantised_as(after) is Precision.INT8
    take_over(after)
    np.testing.assert_array_equal(run(after), run(before))
    (quantise,) = (node for node in after.graph if node.op_type == "QuantizeLinear")
    assert quantise.inputs[2].dtype == ir.DataType.INT8


@pytest.mark.parametrize(
    "options",
    [
        {"zero": 3},
        {"zero": 0, "unsigned": True},
        {"zero": None},  # uint8 with the zero point 0 is the default of ONNX
    ],
)
def test_a_zero_point_that_tensorrt_lacks_is_refused(options: dict[str, Any]) -> None:
    read = prepared(trained(**options))
    with pytest.raises(
        ExportError, match=r"tensor 'x' is quantised with the zero point \d"
    ) as caught:
        take_over(read)
    assert "symmetric int8" in str(caught.value.hint)


def test_the_scaling_that_torch_ao_puts_before_a_batchnorm_joins_it() -> None:
    """torch.ao divides by the BatchNorm's scale and adds the bias behind the layer."""
    before = trained()
    arrays = {t.name: numpy_helper.to_array(t) for t in before.graph.initializer}
    divisor = (arrays["gamma"] / np.sqrt(arrays["variance"] + 1e-5)).reshape(1, 5, 1, 1)
    (index,) = (i for i, node in enumerate(before.graph.node) if node.op_type == "Conv")
    for name, array in (("k", divisor), ("a", np.arange(5.0).reshape(5, 1, 1))):
        before.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    before.graph.node[index].output[0] = "c0"
    before.graph.node.insert(index + 1, helper.make_node("Div", ["c0", "k"], ["c1"]))
    before.graph.node.insert(index + 2, helper.make_node("Add", ["c1", "a"], ["c"]))
    after = folded(before)
    assert [node.op_type for node in after.graph if node.op_type in ("Div", "Add")] == []
    codes, steps = weights_of(after)
    np.testing.assert_array_equal(codes, arrays["codes"])
    np.testing.assert_allclose(steps, arrays["steps"], rtol=1e-6)
    np.testing.assert_allclose(run(after), run(before), atol=1e-4)


def test_clips_of_codes_stand_before_the_rounding() -> None:
    """Brevitas narrows the codes of weights and activations by a Clip behind the quantiser."""
    before = trained()
    for name, (low, high) in {"codes": (-100, 90), "xq": (-20, 30)}.items():
        for end, value in (("low", low), ("high", high)):
            before.graph.initializer.append(
                numpy_helper.from_array(np.int8(value), f"{name}.{end}")
            )
        (reader,) = (node for node in before.graph.node if node.input[0] == name)
        clip = helper.make_node("Clip", [name, f"{name}.low", f"{name}.high"], [f"{name}.clipped"])
        before.graph.node.insert(list(before.graph.node).index(reader), clip)
        reader.input[0] = f"{name}.clipped"
    after = folded(before)
    assert [node.op_type for node in after.graph].count("Clip") == 1
    codes, _ = weights_of(after)
    assert (codes.min(), codes.max()) == (-100, 90)
    np.testing.assert_allclose(run(after), run(before), atol=1e-5)


def test_rounding_is_left_out_for_comparisons_alone() -> None:
    read = prepared(trained())
    smooth = without_pairs(read)
    assert not any(node.op_type == "QuantizeLinear" for node in smooth.graph)
    assert any(node.op_type == "QuantizeLinear" for node in read.graph)
    difference = np.abs(run(smooth) - run(read)).max()
    assert 0 < difference < 1


def test_a_float_model_is_none_of_these_and_integer_operators_are_refused() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    assert quantised_as(prepared(model_of(nodes))) is None
    nodes = [helper.make_node("MatMulInteger", ["x", "x"], ["y"])]
    with pytest.raises(ExportError, match="MatMulInteger"):
        quantised_as(ir.from_proto(model_of(nodes)))


def model_of(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_the_rest_goes_to_fp16_around_the_scales_of_the_file(tmp_path: Path) -> None:
    source, path = tmp_path / "net.onnx", tmp_path / "net.int8.onnx"
    onnx.save(ir.to_proto(folded(trained())), source)
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    data = LoweringData([{"x": x}])
    made = lower(source, path, Precision.INT8, data)
    assert made.precision is Precision.INT8
    assert made.sqnr_db > 30
    assert "int8 from the file: its scales are kept" in made.notes
    before, after = onnx.load(source), onnx.load(path)
    stored = [
        {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        for model in (before, after)
    ]
    assert {"step", "w.scale", "w.codes"} <= set(stored[1])
    for name in set(stored[0]) & set(stored[1]):
        array = stored[0][name]
        if array.dtype == np.int8:
            np.testing.assert_array_equal(stored[1][name], array)
        elif "scale" in name or name.startswith("step"):
            assert stored[1][name].dtype == np.float16
            np.testing.assert_allclose(stored[1][name], array, rtol=2**-11)
    with pytest.raises(UsageError, match="a second time"):
        lower(source, tmp_path / "none.onnx", Precision.FP8, data)
