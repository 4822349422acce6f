"""The record that every kind of file has: how the file is recognised, and how it is read."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from deployfold.errors import LoadError
from deployfold.loading.model import Kind

_INFLATION = 4
"""torch stores its archives uncompressed; entries that claim more than this many times the file's
size are a decompression bomb."""


@dataclass(frozen=True)
class Header:
    """The part of a file that shows its kind.

    Attributes:
        size: of the file in bytes.
        head: its first 64 bytes.
        entries: the names in a zip archive, each with and without the archive's leading folder;
            ``None`` for any other file.
    """

    path: Path
    size: int
    head: bytes
    entries: frozenset[str] | None


@dataclass(frozen=True)
class Permissions:
    """The permissions that the user gives to a file.

    Attributes:
        allow_globals: classes that a pickle may use beside those of known packages.
        trust: the file may run code.
    """

    allow_globals: tuple[str, ...] = ()
    trust: bool = False


@dataclass(frozen=True, eq=False)
class Content:
    """The content of a file: a ready module, or an object tree in which to look for the model.

    Attributes:
        module: of a format that holds a program.
        kind: of ``module``.
        shapes: input shapes that the file itself names.
        tree: of a format that holds objects; ``None`` with a module.
        arch: the architecture that the file itself names, if any.
        options: keyword arguments for that architecture.
        notes: sentences for the user.
        file: the file of weights in a directory; ``None`` for the source itself.
    """

    module: nn.Module | None = None
    kind: Kind = "module"
    shapes: tuple[tuple[int, ...], ...] = ()
    tree: Any = None
    arch: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    file: Path | None = None


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: in messages.
        suffixes: that its files usually have; they are taken off for the model's name.
        recognise: whether a file is of this kind, by its content and not by its name.
        read: the content; nothing in the file runs code that the permissions do not allow.
    """

    name: str
    suffixes: tuple[str, ...]
    recognise: Callable[[Header], bool]
    read: Callable[[Path, Permissions], Content]


def read_header(path: Path) -> Header:
    """The header of the file at ``path``.

    Raises:
        LoadError: the file cannot be read, is empty, or is a damaged or malformed archive.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise LoadError(f"Cannot read {path}: {error.strerror}.") from error
    if not size:
        raise LoadError(f"{path} is empty.", hint="Was the download or the copy interrupted?")
    entries = _entries(path, size) if head.startswith(b"PK\x03\x04") else None
    return Header(path, size, head, entries)


def _entries(path: Path, size: int) -> frozenset[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise LoadError(
            f"{path} is a damaged archive: {error}.",
            hint="Was the download or the copy interrupted? Compare its size with the original's.",
        ) from error
    if sum(entry.file_size for entry in entries) > _INFLATION * size + (1 << 20):
        raise LoadError(
            f"{path} claims to hold far more than its size; torch does not write such archives."
        )
    names = [entry.filename for entry in entries]
    # torch looks entries up without regard to case, Python takes the last of two.
    if len({name.casefold() for name in names}) != len(names):
        raise LoadError(
            f"{path} holds two entries of one name; torch does not write such archives."
        )
    return frozenset(name.partition("/")[2] for name in names) | frozenset(names)
