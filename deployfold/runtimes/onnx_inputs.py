"""The inputs of an ONNX file, as the file or ONNX Runtime describes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deployfold.errors import MeasureError

from .inputs import StatedInput


def stated_inputs(path: Path) -> tuple[StatedInput, ...]:
    """The inputs of an ONNX file, read without its weights.

    Raises:
        MeasureError: the file is not an ONNX.
    """
    import onnx
    from onnx import helper

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:
        raise MeasureError(f"{path.name} cannot be loaded: it is not an ONNX file.") from error
    weights = {tensor.name for tensor in graph.initializer}
    found = []
    for value in graph.input:
        if value.name not in weights:
            kind = value.type.tensor_type
            sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
            dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem_type))
            found.append(stated_input(value.name, dtype, sizes))
    return tuple(found)


def stated_input(name: str, dtype: str, sizes: Sequence[object]) -> StatedInput:
    """An input whose axes are fixed where ``sizes`` has a positive number; else any size fits."""
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in sizes)
    usual = tuple(size or 1 for size in shape)
    return StatedInput(name, dtype, shape, usual, usual)


def numpy_name(declared: str) -> str:
    """The numpy name of ONNX Runtime's type: ``float32`` for ``tensor(float)``."""
    inner = declared.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(inner, inner)
