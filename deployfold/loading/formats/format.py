"""The record of a file format: how to recognise a file, and how to read it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from deployfold.errors import LoadError
from deployfold.loading.archive import DAMAGED, check_sums, damaged
from deployfold.loading.model import Kind

_INFLATION = 4
"""Greatest accepted ratio of unpacked size to file size. torch does not compress its archives, so a
larger ratio means a decompression bomb."""


@dataclass(frozen=True)
class Header:
    """The part of a file from which its format is recognised.

    Attributes:
        path: the file.
        size: the file's size in bytes.
        head: the first 512 bytes.
        entries: the names in a zip archive, each with and without the archive's leading folder;
            ``None`` for any other file.
    """

    path: Path
    size: int
    head: bytes
    entries: frozenset[str] | None


@dataclass(frozen=True)
class Permissions:
    """The permissions that the user grants to a file.

    Attributes:
        allow_globals: classes that a pickle may use, besides those of known packages.
        trust: the file may run code.
    """

    allow_globals: tuple[str, ...] = ()
    trust: bool = False


@dataclass(frozen=True, eq=False)
class Content:
    """The content of a file: a module, or a tree of objects that contains the model.

    Attributes:
        module: the module, for formats that store programs.
        kind: the kind of ``module``.
        shapes: input shapes that the file states.
        tree: the objects, for formats that store objects; ``None`` with a module.
        arch: the architecture that the file states, if any.
        options: keyword arguments for that architecture.
        notes: sentences for the user.
        files: the files with the weights; empty for the source alone.
        own_loader: loads the whole model as the library that wrote it does, which may rename keys;
            returns ``None`` where weights are missing. Only for files that cannot run code.
    """

    module: nn.Module | None = None
    kind: Kind = "module"
    shapes: tuple[tuple[int, ...], ...] = ()
    tree: Any = None
    arch: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    own_loader: Callable[[], nn.Module | None] | None = None


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        name: the name in messages.
        suffixes: the usual suffixes, which are removed to get the model's name.
        recognise: decides by its content, not by its name, whether a file has this format.
        read: reads the content; the file runs no code that the permissions do not allow.
    """

    name: str
    suffixes: tuple[str, ...]
    recognise: Callable[[Header], bool]
    read: Callable[[Path, Permissions], Content]


def read_header(path: Path) -> Header:
    """The header of the file at ``path``.

    Raises:
        LoadError: the file cannot be read, is not a file, is empty, or is a damaged archive.
    """
    try:
        if not path.is_file():  # opening a pipe would wait for a writer
            raise LoadError(f"{path} is not a regular file.", hint="Copy it to a file first.")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise LoadError(f"Cannot read {path}: {error.strerror}.") from error
    if not size:
        raise LoadError(
            f"{path} is empty.", hint="Download or copy it again; the last time may have failed."
        )
    entries = _entries(path, size) if head.startswith(b"PK\x03\x04") else None
    return Header(path, size, head, entries)


def _entries(path: Path, size: int) -> frozenset[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > _INFLATION * size + (1 << 20):
                raise LoadError(
                    f"{path} claims to hold far more than its size; torch does not write such "
                    "archives."
                )
            names = [entry.filename for entry in entries]
            # torch ignores case when it looks up entries; Python takes the last of two equal names.
            if len({name.casefold() for name in names}) != len(names):
                raise LoadError(
                    f"{path} holds two entries of one name; torch does not write such archives."
                )
            check_sums(archive)
    except DAMAGED as error:
        raise damaged(path, error) from error
    return frozenset(name.partition("/")[2] for name in names) | frozenset(names)
