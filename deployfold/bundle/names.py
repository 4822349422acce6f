"""Checks the names of the files in a bundle."""

from __future__ import annotations

import re

LONGEST = 100
"""Bytes of a name in a tar header. Longer names need extensions of the format."""

_DRIVE = re.compile(r"[A-Za-z]:")
_UNPORTABLE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')


def fault(name: str) -> str | None:
    """The fault in a file's name, as the end of a sentence; ``None`` if the name is good.

    A good name is relative, stays below the directory of the unpacked bundle, and means the same
    file on every system.
    """
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        return "has an absolute name"
    parts = name.split("/")
    if ".." in re.split(r"[/\\]", name):
        return "leads out of the bundle"
    if any(part in ("", ".") or part.endswith((" ", ".")) for part in parts):
        return "has a name that is not plain"
    if _UNPORTABLE.search(name):
        return "has a character in its name that not every system can store"
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    return f"has a name of more than {LONGEST} bytes" if size > LONGEST else None


def clash(names: list[str]) -> str | None:
    """The first name that occurs twice, ignoring case; ``None`` without one."""
    seen = set()
    for name in names:
        key = name.casefold()
        if key in seen:
            return name
        seen.add(key)
    return None
