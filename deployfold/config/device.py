"""Where the rows of a table run, as ``--device`` takes it."""

from __future__ import annotations

import re

from deployfold.errors import UsageError


def read_device(text: str) -> str:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:1``, in lower case.

    Raises:
        UsageError: the text is none of these.
    """
    word = text.strip().lower()
    if re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", word) is None:
        raise UsageError(f"{text!r} is not a device.", hint="Use auto, cpu, cuda or cuda:1.")
    return word
