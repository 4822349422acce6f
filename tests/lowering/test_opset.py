"""Raising the opset of a model, and what onnx's converter makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deployfold.config.precision import Precision
from deployfold.errors import ExportError
from deployfold.lowering import lower
from deployfold.lowering.graph import load
from deployfold.lowering.opset import raise_checked
from deployfold.lowering.request import LoweringData

FEED = {"x": np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)}


def resized(path: Path, mode: str) -> Path:
    """A convolution and a Resize of opset 10; onnx 1.23 converts a linear one wrongly."""
    weight = np.random.default_rng(1).standard_normal((4, 4, 1, 1)).astype(np.float32)
    arrays = {"w": weight, "s": np.array([1, 1, 2, 2], np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
            helper.make_node("Resize", ["c", "s"], ["y"], mode=mode, name="resize"),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 12, 12])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=5), path
    )
    return path


def test_a_conversion_that_keeps_the_function_is_taken(tmp_path: Path) -> None:
    source = resized(tmp_path / "net.onnx", "nearest")
    model = raise_checked(load(source), source, 19, [FEED])
    assert model.opset_imports[""] == 19


@pytest.mark.parametrize("precision", [Precision.INT8_WEIGHTS, Precision.BF16])
def test_a_conversion_to_another_function_is_refused(precision: Precision, tmp_path: Path) -> None:
    source, path = resized(tmp_path / "net.onnx", "linear"), tmp_path / "lowered.onnx"
    with pytest.raises(ExportError, match=r"from opset 10 to \d+: .* another function") as caught:
        lower(source, path, precision, LoweringData([FEED]))
    assert "opset 20" in str(caught.value.hint)
    assert not path.exists()


def test_fp16_leaves_the_opset_alone(tmp_path: Path) -> None:
    source, path = resized(tmp_path / "net.onnx", "linear"), tmp_path / "lowered.onnx"
    made = lower(source, path, Precision.FP16, LoweringData([FEED]))
    assert made.sqnr_db > 60
    assert onnx.load(path).opset_import[0].version == 10
