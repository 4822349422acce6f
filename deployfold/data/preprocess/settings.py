"""Reads preprocessing settings from a TOML file, and checks those of files and flags."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deployfold.config.real_data import PreprocessSpec
from deployfold.errors import UsageError
from deployfold.util.toml import place_of, read_toml

_CHOICES = {
    key: typing.get_args(typing.get_args(hint)[0])
    for key, hint in typing.get_type_hints(PreprocessSpec).items()
    if key in ("layout", "channels", "interpolation")
}
"""The words of the fields that take one of several."""
_KEYS = ("resize", "crop", "mean", "std", *_CHOICES)
_LONGEST = 1 << 14
"""Longest side in pixels: more than any network takes, with an area that still fits in memory."""
_MOST_CHANNELS = 4


def read_settings(path: Path) -> PreprocessSpec:
    """Read and check a TOML file with the fields of :class:`PreprocessSpec` except ``source``.

    Raises:
        UsageError: the file cannot be read, is not TOML, or has an unknown key or a bad value.
    """
    hint = "Give a TOML file, or auto for the architecture's own preprocessing."
    return settings_of(*read_toml(path, "preprocessing file", hint), str(path))


def settings_of(table: Mapping[str, Any], text: str, where: str) -> PreprocessSpec:
    """Check the content of a preprocessing file.

    Args:
        table: the content.
        text: the same as text, for the line in the message.
        where: the file's name in messages.

    Raises:
        UsageError: names the line, the key and the allowed values.
    """
    return _checked(table, lambda key: place_of(where, text, key))


def check_flags(spec: PreprocessSpec) -> None:
    """Check the values from the command line or the API.

    Raises:
        UsageError: a value is out of range; the message names the field.
    """
    given = {key: value for key, value in asdict(spec).items() if key != "source"}
    given = {key: value for key, value in given.items() if value is not None}
    _checked(given, lambda key: "Preprocessing")


def _checked(table: Mapping[str, Any], place: Callable[[str], str]) -> PreprocessSpec:
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _KEYS:
            raise UsageError(
                f"{place(key)}: unknown key {key!r}.", hint=f"Known keys: {', '.join(_KEYS)}."
            )
        values[key], wanted = _value(key, value)
        if values[key] is None:
            raise UsageError(f"{place(key)}: {key!r} must be {wanted}, not {_shown(value)}.")
    return PreprocessSpec(**values)


def _value(key: str, value: Any) -> tuple[Any, str]:
    """The value in the form of the spec (``None`` for a bad value), and the allowed values."""
    if key in _CHOICES:
        wanted = " or ".join(f'"{choice}"' for choice in _CHOICES[key])
        known = isinstance(value, str) and value.lower() in _CHOICES[key]
        return (value.lower() if known else None), wanted
    if key == "resize":
        return (value if _is_side(value) else None), f"a number of pixels from 1 to {_LONGEST}"
    if key == "crop":
        sides = (value, value) if _is_side(value) else value
        good = isinstance(sides, (list, tuple)) and len(sides) == 2 and all(map(_is_side, sides))
        return (tuple(sides) if good else None), "[height, width] in pixels, or one number for both"
    numbers = value if isinstance(value, (list, tuple)) else [value]
    good = 1 <= len(numbers) <= _MOST_CHANNELS and all(map(_is_number, numbers))
    if key == "std":
        good = good and all(number > 0 for number in numbers)
        return (_floats(numbers) if good else None), "positive numbers, one for each channel"
    return (_floats(numbers) if good else None), "finite numbers, one for each channel"


def _floats(numbers: list[Any] | tuple[Any, ...]) -> tuple[float, ...]:
    return tuple(float(number) for number in numbers)


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LONGEST


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    # The limit keeps the number finite in float32, since TOML integers are unbounded.
    return -1e30 < value < 1e30 and math.isfinite(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
