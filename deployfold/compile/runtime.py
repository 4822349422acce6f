"""The library that runs an engine, and a logger that keeps what it says for our own messages."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from deployfold.errors import MeasureError
from deployfold.shapes import within

Bounds = Mapping[str, tuple[Sequence[int], Sequence[int], Sequence[int]]]
"""An optimization profile: min, opt and max shape of each input, by name."""


def runtime_library(name: str) -> Any:
    """Import ``tensorrt`` or ``tensorrt_rtx`` to run an engine with.

    Raises:
        MeasureError: it is not installed, cannot load its libraries, or another module of that
            name comes first on ``sys.path``.
    """
    try:
        module = importlib.import_module(name)
    except Exception as error:  # ImportError, OSError of a missing library, RuntimeError
        raise MeasureError(
            f"The engine needs {name}, which cannot be imported here: {error}.",
            hint=f"Install it with: pip install {name.replace('_', '-')}",
        ) from error
    if not hasattr(module, "Runtime"):
        raise MeasureError(
            f"{getattr(module, '__file__', name)} hides NVIDIA's {name}.",
            hint="Rename that file, or run from another directory.",
        )
    return module


def collecting_logger(trt: Any, messages: list[str]) -> Any:
    """A TensorRT logger that appends errors to ``messages`` and prints nothing."""

    class Collector(trt.ILogger):  # type: ignore[misc]  # the library comes at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                messages.append(" ".join(msg.split()).rstrip("."))

    return Collector()


def select_profile(
    engine: Any, context: Any, stream: int, shapes: Mapping[str, Sequence[int]]
) -> bool:
    """Make ``context`` use the first optimization profile that holds ``shapes``.

    Args:
        stream: the handle of a CUDA stream, to be synchronised afterwards.
        shapes: of every input, by name.

    Returns:
        Whether there is one. Of an engine with a single profile that is left to
        ``set_input_shape``, which says why not.
    """
    count = engine.num_optimization_profiles
    if count < 2:
        return True
    profiles = [
        {name: tuple(engine.get_tensor_profile_shape(name, index)) for name in shapes}
        for index in range(count)
    ]
    index = first_that_holds(profiles, shapes)
    return index is not None and bool(context.set_optimization_profile_async(index, stream))


def first_that_holds(profiles: Sequence[Bounds], shapes: Mapping[str, Sequence[int]]) -> int | None:
    """The index of the first profile whose bounds hold all ``shapes``; ``None`` if none does."""
    for index, profile in enumerate(profiles):
        bounds = ((profile[name], shape) for name, shape in shapes.items())
        if all(within(low, shape, high) for (low, _, high), shape in bounds):
            return index
    return None
