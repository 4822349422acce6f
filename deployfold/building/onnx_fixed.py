"""Gives inputs of an ONNX file one value each: ``--fix``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir

from deployfold.errors import UsageError, unknown_input
from deployfold.exporting.given import repair
from deployfold.exporting.storage import SCRATCH_THRESHOLD, write_model
from deployfold.loading import LoadedModel
from deployfold.loading.arguments import fixed_note
from deployfold.loading.onnx_module import OnnxModule
from deployfold.lowering.graph import load


class FixedOnnx(OnnxModule):
    """A copy of an ONNX file in which some inputs are constants."""

    def __init__(self, given: OnnxModule, values: Mapping[str, Any]) -> None:
        self._directory = TemporaryDirectory(prefix="deployfold-")
        super().__init__(Path(self._directory.name) / given.path.name)
        model = load(given.path)
        repair(model)
        inputs = {value.name or "": value for value in model.graph.inputs}
        for name, value in values.items():
            if name not in inputs:
                raise unknown_input(given.path.name, name, inputs)
            one = inputs[name]
            one.const_value = ir.tensor(_array(one, value), name=name)
            model.graph.inputs.remove(one)
            model.graph.register_initializer(one)
        write_model(model, self.path, threshold=SCRATCH_THRESHOLD)


def fixed(loaded: LoadedModel, values: Mapping[str, Any]) -> LoadedModel:
    """The model with a value for each of the named inputs, and without these inputs.

    Raises:
        UsageError: an input is unknown, or does not take the value.
    """
    assert isinstance(loaded.module, OnnxModule)
    return replace(
        loaded,
        module=FixedOnnx(loaded.module, values),
        notes=(*loaded.notes, fixed_note(values)),
    )


def _array(declared: ir.Value, value: Any) -> np.ndarray[Any, Any]:
    """The value in the dtype and the shape of an input.

    Raises:
        UsageError: the input does not take it.
    """
    dtype, shape = declared.dtype, declared.shape
    assert dtype is not None  # the loader requires both
    assert shape is not None
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "bif":
            raise ValueError
        exact = array.astype(dtype.numpy())
        if shape.is_static():
            exact = np.broadcast_to(exact, shape.numpy())
        if exact.ndim != len(shape) or not (exact == array).all():
            raise ValueError
    except ValueError:
        text = "x".join(map(str, shape)) or "scalar"
        raise UsageError(
            f"The input {declared.name!r} is {text} {dtype.name.lower()}, and {value!r} does not "
            "fit.",
            hint="Write --fix NAME=NUMBER, or a list such as --fix sizes=[640,640].",
        ) from None
    return np.ascontiguousarray(exact).reshape(exact.shape)
