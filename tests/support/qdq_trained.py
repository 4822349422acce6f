"""A small network as quantisation-aware training or another quantiser writes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = (1, 4, 6, 6)


def trained(
    *,
    stored: str = "codes",
    zero: int | None = 0,
    unsigned: bool = False,
    negative: bool = False,
    product: bool = False,
    seed: int = 0,
) -> onnx.ModelProto:
    """A layer and a BatchNorm behind it, with Q/DQ in front of the layer and around its weight.

    Args:
        stored: ``codes`` behind a DequantizeLinear, or ``floats`` behind a pair.
        zero: the zero point of the activation; ``None`` leaves the input out.
        unsigned: the activation is uint8.
        negative: the BatchNorm turns signs.
        product: a Gemm in place of a convolution.
    """
    random = np.random.default_rng(seed)
    shape = (5, 4) if product else (5, 4, 3, 3)
    codes = random.integers(-127, 128, shape).astype(np.int8)
    steps = random.uniform(0.005, 0.02, 5).astype(np.float32)
    arrays: dict[str, Any] = {
        "step": np.float32(0.04), "steps": steps, "zeros": np.zeros(5, np.int8),
        "bias": random.integers(-3000, 3000, 5).astype(np.int32), "bias.zero": np.int32(0),
        "bias.step": np.float32(1e-4), "codes": codes,
        "gamma": (random.uniform(0.5, 2, 5) * (-1 if negative else 1)).astype(np.float32),
        "beta": random.standard_normal(5).astype(np.float32),
        "mean": random.standard_normal(5).astype(np.float32),
        "variance": random.uniform(0.5, 2, 5).astype(np.float32),
    }  # fmt: skip
    pair = ["step"]
    if zero is not None:
        arrays["zero"] = np.uint8(zero) if unsigned else np.int8(zero)
        pair.append("zero")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *pair], ["xq"], name="x.quantise"),
        helper.make_node("DequantizeLinear", ["xq", *pair], ["xd"], name="x.dequantise"),
        helper.make_node("DequantizeLinear", ["bias", "bias.step", "bias.zero"], ["b"]),
    ]
    weight = "codes"
    if stored == "floats":
        arrays["floats"] = codes * steps.reshape(-1, *[1] * (codes.ndim - 1))
        per_channel = ["steps", "zeros"]
        nodes.append(helper.make_node("QuantizeLinear", ["floats", *per_channel], ["q"], axis=0))
        weight = "q"
    nodes.append(helper.make_node("DequantizeLinear", [weight, "steps", "zeros"], ["w"], axis=0))
    layer: dict[str, Any] = {"transB": 1} if product else {"pads": [1, 1, 1, 1]}
    kind = "Gemm" if product else "Conv"
    nodes += [
        helper.make_node(kind, ["xd", "w", "b"], ["c"], name="layer", **layer),
        helper.make_node(
            "BatchNormalization", ["c", "gamma", "beta", "mean", "variance"], ["n"], name="norm"
        ),
        helper.make_node("Relu", ["n"], ["y"], name="relu"),
    ]
    given_shape = SHAPE[:2] if product else SHAPE
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 5, *given_shape[2:]))],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model
