"""Keeps the exporters' chatter away from the user's terminal, and what matters of it."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from deployfold.errors import first_few

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
def quiet(*, native: bool = False) -> Iterator[list[str]]:
    """Silence stdout, stderr, logging and warnings of the block; exceptions pass.

    Args:
        native: also what C++ writes, and so all that the process writes there meanwhile. The
            TorchScript-based ONNX exporter dumps its graph when an operator has no symbol.

    Yields a list that holds, after the block, what torch's tracer baked in of the values it saw:
    ``"a branch at model.py:12"``, without repetition.
    """
    baked: list[str] = []
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(record=True) as caught,
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            _to_nowhere(1) if native else nullcontext(),
            _to_nowhere(2) if native else nullcontext(),
        ):
            warnings.simplefilter("always")
            yield baked
    finally:
        logging.disable(disabled)
        for warning in caught:
            # torch's own branches (shape checks) are not the user's, and there are many.
            own = Path(warning.filename).is_relative_to(_TORCH)
            if warning.category.__name__ == "TracerWarning" and not own:
                message = str(warning.message)
                what = next((text for start, text in _BAKED if message.startswith(start)), None)
                place = f"{what} at {Path(warning.filename).name}:{warning.lineno}"
                if what is not None and place not in baked:
                    baked.append(place)


@contextmanager
def _to_nowhere(descriptor: int) -> Iterator[None]:
    try:
        saved = os.dup(descriptor)
    except OSError:  # it is closed already
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), descriptor)
            yield
    finally:
        os.dup2(saved, descriptor)
        os.close(saved)


def baked_note(baked: Sequence[str]) -> tuple[str, ...]:
    """One sentence for the user of what :func:`quiet` collected; none if it collected nothing."""
    if not baked:
        return ()
    return (f"Tracing kept what the example inputs led to: {first_few(baked)}.",)
