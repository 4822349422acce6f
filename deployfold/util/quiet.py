"""Silences the output of libraries in the process of a command.

Warnings, loggers and standard streams belong to the whole process. A command owns its process and
may silence them. In the process of a program that uses deployfold as a library, this module only
adds single filters to Python's warnings.
"""

from __future__ import annotations

import io
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Literal

from .shared import SharedChange

_OWN = threading.Event()


def claim_process() -> None:
    """Declare that this process belongs to a command, which may silence its libraries."""
    _OWN.set()


@contextmanager
def without_warnings() -> Iterator[None]:
    """Ignore Python warnings within the block, in the process of a command."""
    if not _OWN.is_set():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def quiet(*, native: bool = False) -> Iterator[None]:
    """Silence stdout, stderr, logging and warnings within the block, in the process of a command.

    Args:
        native: also silence the output of C++. The TorchScript-based ONNX exporter prints its graph
            if an operator has no symbol.
    """
    if not _OWN.is_set():
        yield
        return
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            without_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            _to_nowhere(1) if native else nullcontext(),
            _to_nowhere(2) if native else nullcontext(),
        ):
            yield
    finally:
        logging.disable(disabled)


def add_filter(
    action: Literal["ignore", "always"],
    category: type[Warning],
    *,
    message: str = "",
    module: str = "",
) -> Callable[[], None]:
    """Add one filter of Python's warnings, and return the function that removes the filter.

    ``warnings.catch_warnings`` would also undo changes that other threads make meanwhile.

    Args:
        action, category: see ``warnings.filterwarnings``.
        message, module: regular expressions for the beginning of the message, and of the name of
            the module that warns.
    """
    before = list(warnings.filters)
    warnings.filterwarnings(action, message, category, module)
    added = [item for item in warnings.filters if item not in before]

    def remove() -> None:
        for item in added:
            with suppress(ValueError):  # other code has reset the filters
                warnings.filters.remove(item)  # type: ignore[attr-defined]

    return remove


TORCHSCRIPT_IS_FINE = SharedChange(
    lambda: add_filter("ignore", FutureWarning, message=r"`torch\.jit\.")
)
"""Hides torch's deprecation warning at every use of TorchScript, even if warnings are errors."""


@contextmanager
def _to_nowhere(descriptor: int) -> Iterator[None]:
    try:
        saved = os.dup(descriptor)
    except OSError:  # the descriptor is already closed
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), descriptor)
            yield
    finally:
        os.dup2(saved, descriptor)
        os.close(saved)
