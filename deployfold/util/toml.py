"""Reads TOML files that users write."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from deployfold.errors import UsageError


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML document.

    Raises:
        ValueError: the text is not TOML, or is nested too deeply.
    """
    # tomllib is part of Python 3.11; tomli is the same code for 3.10. The import is inside the
    # function because devices that only run engines may lack both.
    tomllib: Any = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return table


def place_of(file: object, text: str, key: str) -> str:
    """``FILE, line 3`` for the line of ``text`` that sets a key; the file alone without one."""
    name = rf"[\"']?{re.escape(key)}[\"']?"
    pattern = re.compile(rf"\s*(?:\[+\s*)?{name}\s*[=.\]]|\s*\[+\s*{re.escape(key)}\b")
    for number, line in enumerate(text.splitlines(), start=1):
        if pattern.match(line):
            return f"{file}, line {number}"
    return str(file)


def read_toml(path: Path, what: str, hint: str | None = None) -> tuple[dict[str, Any], str]:
    """The table of a TOML file, and its text, in which a later error can find its line.

    Args:
        what: the kind of file for the message, such as ``fleet file``.
        hint: what to do about a file that cannot be read.

    Raises:
        UsageError: the file cannot be read, or is not TOML in UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return parse_toml(text), text
    except (OSError, ValueError) as error:  # UnicodeDecodeError and TOMLDecodeError are ValueErrors
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"{path} is not a readable {what}: {reason}.", hint=hint) from error
