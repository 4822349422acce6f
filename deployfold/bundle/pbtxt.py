"""Writes the part of protobuf's text format that Triton's ``config.pbtxt`` needs.

See https://protobuf.dev/reference/protobuf/textformat-spec/. The library protobuf would need
Triton's generated classes, which only ship with the client and gRPC. The tests read the text with
these classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Name(str):
    """A member of an enumeration, written without quotes."""


def text(message: Mapping[str, Any]) -> str:
    """The text of a message of strings, numbers, enumeration members, messages, and lists of these.

    Fields that are ``None`` are left out. Empty messages are written, because
    ``dynamic_batching {}`` enables Triton's defaults.
    """
    return "".join(_fields(message, ""))


def _fields(message: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for name, value in message.items():
        if value is None:
            continue
        if isinstance(value, (list, tuple)):
            lines += _list(name, value, indent)
        else:
            lines += _field(name, value, indent)
    return lines


def _field(name: str, value: Any, indent: str) -> list[str]:
    if isinstance(value, Mapping):
        inner = _fields(value, indent + "  ")
        return [f"{indent}{name} {{\n", *inner, f"{indent}}}\n"] if inner else [
            f"{indent}{name} {{ }}\n"
        ]  # fmt: skip
    return [f"{indent}{name}: {_scalar(value)}\n"]


def _list(name: str, values: Sequence[Any], indent: str) -> list[str]:
    if values and isinstance(values[0], Mapping):
        return [line for value in values for line in _field(name, value, indent)]
    return [f"{indent}{name}: [ {', '.join(map(_scalar, values))} ]\n"] if values else []


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Name):
        return str(value)
    plain = {'"': '\\"', "\\": "\\\\", "\n": "\\n"}
    escaped = (
        plain.get(chr(byte), chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}")
        for byte in value.encode("utf-8")
    )
    return f'"{"".join(escaped)}"'
