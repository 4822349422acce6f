"""Notes the branches, numbers and lengths that torch's tracer takes from the example inputs."""

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
from deployfold.util.shared import ONE_AT_A_TIME

_TORCH = Path(torch.__file__).parent

# The beginning of a tracer's warning, and the part of the model that became constant. Warnings
# about tensors made from constants are left out, because these are constants anyway.
_BAKED = (
    ("Converting a tensor to a Python boolean", "a branch"),
    ("Converting a tensor to a Python", "a number"),
    ("Converting a tensor to a NumPy", "an array"),
    ("Iterating over a tensor", "the length of a loop"),
    ("Using len to get tensor shape", "a length"),
)


@contextmanager
def noting_baked() -> Iterator[list[str]]:
    """Note the values that torch's tracer makes constant, by its warnings in this thread.

    One function of Python shows all warnings. The block replaces that function, one thread at a
    time. Other warnings go to the previous function.

    Yields:
        A list that receives places without repetitions: ``"a branch at model.py:12"``.
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
        # Leave out the many branches in torch itself (shape checks).
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
    """One sentence on the values that tracing made constant; empty without any."""
    if not places:
        return ()
    return (f"Tracing made values of the example inputs constant: {first_few(places)}.",)
