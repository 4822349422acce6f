"""Reads zip archives the way torch does.

A crafted archive can show different entries to two zip readers. The inspection before torch opens
a file must see the bytes that torch then reads, so torch's own reader and Python's must agree.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import torch

from deployfold.errors import LoadError

_DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError,
    NotImplementedError,
)  # fmt: skip
"""The exceptions of Python's reader, and of torch's, for a broken archive."""


def read_entries(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The entries whose name, without the archive's leading folder, is ``wanted``.

    Raises:
        LoadError: the archive is damaged, or Python and torch read different entries.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            reader = _torch_reader(path)
            if reader is None:
                return {name: archive.read(name) for name in names if wanted(name)}
            inner = {name.partition("/")[2]: name for name in names}
            if sorted(inner) != sorted(reader.get_all_records()):
                raise _disagreement(path)
            contents = {name: archive.read(inner[name]) for name in inner if wanted(name)}
            if any(reader.get_record(name) != content for name, content in contents.items()):
                raise _disagreement(path)
            return contents
    except _DAMAGED as error:
        raise LoadError(f"{path} is a damaged archive: {error}") from error


def _torch_reader(path: Path) -> torch._C.PyTorchFileReader | None:
    try:
        return torch._C.PyTorchFileReader(str(path))
    except RuntimeError:  # .pt2 of torch 2.7 and before have no leading folder; torch uses zipfile
        return None


def _disagreement(path: Path) -> LoadError:
    return LoadError(
        f"{path} is an archive with different contents for Python and for torch.",
        hint="torch does not write such archives; get the file again from its author.",
    )
