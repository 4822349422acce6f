"""What torch's tracer keeps of the example inputs: branches, numbers and lengths."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.jit._trace import TracerWarning

from deployfold.errors import first_few
from deployfold.util.quiet import add_filter
from deployfold.util.serial import ONE_AT_A_TIME

_TORCH = Path(torch.__file__).parent

# How torch's tracer begins a warning, and what happened to the model. Its warnings about tensors
# made from constants are left out: they are constants.
_BAKED = (
    ("Converting a tensor to a Python boolean", "a branch"),
    ("Converting a tensor to a Python", "a number"),
    ("Converting a tensor to a NumPy", "an array"),
    ("Iterating over a tensor", "the length of a loop"),
    ("Using len to get tensor shape", "a length"),
)


@contextmanager
def noting_baked() -> Iterator[list[str]]:
    """Note what torch's tracer bakes in, by the warnings that it gives in this thread.

    Python shows all warnings by one function. It is replaced for the block, one thread at a time;
    what is no warning of this thread's tracer goes on to the function before.

    Yields:
        a list that fills with places, each once: ``"a branch at model.py:12"``.
    """
    places: list[str] = []
    thread = threading.get_ident()
    shown = warnings.showwarning

    def show(
        message: Any, category: Any, filename: Any, lineno: Any, *rest: Any, **named: Any
    ) -> None:
        ours = category is TracerWarning and threading.get_ident() == thread
        if not ours:
            shown(message, category, filename, lineno, *rest, **named)
            return
        what = next((text for start, text in _BAKED if str(message).startswith(start)), None)
        place = f"{what} at {Path(filename).name}:{lineno}"
        # torch's own branches (shape checks) are not the user's, and there are many.
        own = Path(filename).is_relative_to(_TORCH)
        if what is not None and not own and place not in places:
            places.append(place)

    with ONE_AT_A_TIME:
        remove = add_filter("always", TracerWarning)
        warnings.showwarning = show
        try:
            yield places
        finally:
            warnings.showwarning = shown
            remove()


def baked_note(places: list[str]) -> tuple[str, ...]:
    """One sentence for the user of what tracing baked in; none if that is nothing."""
    if not places:
        return ()
    return (f"Tracing kept what the example inputs led to: {first_few(places)}.",)
