"""Which names of files a bundle may hold."""

from __future__ import annotations

import re

LONGEST = 100
"""Bytes of a name in a tar header; longer ones need extensions that a bundle does without."""

_DRIVE = re.compile(r"[A-Za-z]:")
_UNPORTABLE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')


def fault(name: str) -> str | None:
    """What is wrong with a file's name, as the end of a sentence; ``None`` if nothing is.

    A good name is relative, stays below the directory that it is unpacked into, and means the same
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
    """The first name that stands twice, also where a system takes small letters for capitals."""
    seen = set()
    for name in names:
        key = name.casefold()
        if key in seen:
            return name
        seen.add(key)
    return None
