"""The value of ``--device``: where the rows of a table run."""

from __future__ import annotations

import re

from deployfold.errors import UsageError


def read_device(text: str) -> str:
    """Read ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into lower case.

    Raises:
        UsageError: the text names another device.
    """
    word = text.strip().lower()
    if re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", word) is None:
        raise UsageError(f"{text!r} is not a device.", hint="Use auto, cpu, cuda or cuda:1.")
    return word
