"""Writing an ONNX without protobuf's copies of the weights: the bytes are those of protobuf."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployfold.exporting import inline_weights

ARRAYS = {
    "scalar": np.array(3, np.int64),
    "empty": np.zeros((0, 4), np.float32),
    "long": np.arange(50_000, dtype=np.float32).reshape(2, -1),
    "half": np.ones((3, 5), np.float16),
    "brain": np.ones((130,), ml_dtypes.bfloat16),
    "flags": np.array([True, False]),
    "codes": np.arange(-7, 8).astype(ml_dtypes.int4),
}


def model_with(tensors: list[ir.TensorProtocol]) -> ir.Model:
    """A graph that returns every tensor, with text in the fields around the weights."""
    weights = [ir.Value(name=one.name, const_value=one) for one in tensors]
    nodes = [ir.node("Identity", [one], name=f"node of {one.name}") for one in weights]
    outputs = [node.outputs[0] for node in nodes]
    for value in outputs:
        value.name = f"{value.producer().inputs[0].name}_out"
    graph = ir.Graph(
        [ir.Input("x")], outputs, nodes=nodes, initializers=weights, name="g", doc_string="graph"
    )
    graph.metadata_props["key"] = "value"
    model = ir.Model(graph, ir_version=10, producer_name="test", doc_string="model")
    model.metadata_props["other"] = "value"
    model.opset_imports[""] = 20
    return model


def written(model: ir.Model, directory) -> bytes:
    inline_weights.save(model, directory / "model.onnx")
    return (directory / "model.onnx").read_bytes()


def test_the_file_is_the_one_that_protobuf_writes(tmp_path):
    tensors = [ir.tensor(array, name=name) for name, array in ARRAYS.items()]
    tensors[2].doc_string = "a weight"
    tensors[3].metadata_props["scale"] = "2"
    tensors.append(ir.tensor(["text", "more"], name="strings"))
    tensors.append(
        ir.LazyTensor(lambda: tensors[2], ir.DataType.FLOAT, ir.Shape((2, 25_000)), name="lazy")
    )
    tensors.append(
        ir.ExternalTensor("far.data", 0, 8, ir.DataType.FLOAT, shape=ir.Shape((2,)), name="far")
    )
    model = model_with(tensors)
    expected = ir.to_proto(model).SerializeToString()
    assert written(model, tmp_path) == expected
    assert all(model.graph.initializers[one.name].const_value is one for one in tensors)
    del tensors[3].metadata_props["scale"]  # onnx-ir would write those of a file twice
    read = ir.from_proto(ir.to_proto(model))
    assert written(read, tmp_path) == ir.to_proto(read).SerializeToString()


@given(st.integers(0, 2**63 - 1))
def test_lengths_are_encoded_as_protobuf_does(number):
    message = onnx.ModelProto(ir_version=number)
    expected = message.SerializeToString() if number else b"\x08\x00"
    assert inline_weights._varint(1 << 3) + inline_weights._varint(number) == expected


def test_a_failing_weight_leaves_the_model_whole(tmp_path):
    def fail() -> ir.Tensor:
        raise MemoryError

    weight = ir.LazyTensor(fail, ir.DataType.FLOAT, ir.Shape((1,)), name="w")
    model = model_with([weight])
    with pytest.raises(MemoryError):
        inline_weights.save(model, tmp_path / "model.onnx")
    assert model.graph.initializers["w"].const_value is weight
