"""Reads ``--arch-arg``: the arguments of an architecture's builder."""

from __future__ import annotations

import ast
from typing import Any

from deployfold.errors import UsageError


def read_arguments(texts: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
    """Read each ``NAME=VALUE``; a value that is not a Python literal is a string."""
    found = []
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name.isidentifier():
            raise UsageError(
                f"--arch-arg {text!r} is not NAME=VALUE.", hint="Write it as --arch-arg width=64."
            )
        try:
            found.append((name, ast.literal_eval(value)))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found.append((name, value))
    return tuple(found)
