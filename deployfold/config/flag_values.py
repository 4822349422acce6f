"""Reads the values of single flags: names of code, --device, --batch, --arch-arg, NAME=NUMBER."""

from __future__ import annotations

import ast
import math
import re
from typing import Any

from deployfold.errors import UsageError

ZOOS = ("torchvision", "timm")
"""The packages whose models are named ``PACKAGE:NAME``."""


def is_zoo_name(text: str) -> bool:
    """Whether a text reads ``torchvision:NAME`` or ``timm:NAME``."""
    return text.partition(":")[0] in ZOOS and ":" in text


def is_function(value: object) -> bool:
    """Whether a value has the form ``package.module:function``, so that reading it runs code.

    Files that may not choose code, such as build profiles, are refused by this rule, and no name
    that it rejects is imported. The module may have any name without a separator of paths, such as
    ``my-net``, because Python imports those too.
    """
    if not isinstance(value, str) or is_zoo_name(value):
        return False
    return re.fullmatch(r"[^/\\:]+:[^\W\d][\w.]*", value) is not None


def read_device(text: str) -> str:
    """Read ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into lower case.

    Raises:
        UsageError: the text names another device.
    """
    word = text.strip().lower()
    if re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", word) is None:
        raise UsageError(f"{text!r} is not a device.", hint="Use auto, cpu, cuda or cuda:1.")
    return word


def read_batches(text: str | None) -> tuple[int, ...]:
    """Read ``1,8,32``; a missing flag gives no batch sizes.

    Raises:
        UsageError: the text is not a list of different positive integers.
    """
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    valid = all(part.isascii() and part.isdigit() and len(part) < 7 for part in parts)
    batches = tuple(int(part) for part in parts) if valid else ()
    if not valid or 0 in batches or len(set(batches)) < len(batches):
        raise UsageError(
            f"--batch {text}: expected different positive integers separated by commas.",
            hint="Write it as --batch 1,8,32.",
        )
    return tuple(sorted(batches))


_JSON_WORDS = {"true": "True", "false": "False", "null": "None"}
"""Words as JSON and YAML have them. The text ``"false"`` would count as true in Python."""


def read_arguments(
    texts: tuple[str, ...], *, example: str = "--arch-arg width=64"
) -> tuple[tuple[str, Any], ...]:
    """Read each ``NAME=VALUE``: a literal of Python, a word of JSON, or a string."""
    found = []
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not all(part.isidentifier() for part in name.split(".")):
            flag = example.partition(" ")[0]
            raise UsageError(f"{flag} {text!r} is not NAME=VALUE.", hint=f"Write it as {example}.")
        try:
            found.append((name, ast.literal_eval(_JSON_WORDS.get(value, value))))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found.append((name, value))
    return tuple(found)


def split_number(text: str) -> tuple[str, float]:
    """Split ``NAME=NUMBER`` at the last ``=``; the number is NaN if the text has another form."""
    name, _, number = text.rpartition("=")
    try:
        return name, float(number)
    except ValueError:
        return name, math.nan
