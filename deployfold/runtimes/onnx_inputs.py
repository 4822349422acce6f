"""The inputs of an ONNX file, as the file or ONNX Runtime describes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deployfold.errors import MeasureError
from deployfold.util.onnx_files import dims_of, dtype_of, graph_inputs, read_graph

from .inputs import StatedInput


def stated_inputs(path: Path) -> tuple[StatedInput, ...]:
    """The inputs of an ONNX file, read without its weights.

    Raises:
        MeasureError: the file is not an ONNX.
    """
    try:
        graph = read_graph(path)
    except Exception as error:
        raise MeasureError(f"{path.name} cannot be loaded: it is not an ONNX file.") from error
    return tuple(
        stated_input(value.name, dtype_of(value), dims_of(value)) for value in graph_inputs(graph)
    )


def stated_input(name: str, dtype: str, sizes: Sequence[object]) -> StatedInput:
    """An input whose axes are fixed where ``sizes`` has a positive number; else any size fits."""
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in sizes)
    usual = tuple(size or 1 for size in shape)
    return StatedInput(name, dtype, shape, usual, usual)
