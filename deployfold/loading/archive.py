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

DAMAGED = (
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
    except DAMAGED as error:
        raise damaged(path, error) from error


def check_sums(archive: zipfile.ZipFile) -> None:
    """Read every entry that has a checksum, because torch does not compare them.

    The checksum 0 means that none was computed (``torch.serialization.set_crc32_options(False)``).

    Raises:
        LoadError: an entry has changed since the archive was written.
    """
    try:
        for entry in archive.infolist():
            if entry.CRC:
                with archive.open(entry) as file:
                    while file.read(1 << 20):
                        pass
    except DAMAGED as error:
        raise damaged(archive.filename, error) from error


def damaged(path: object, error: Exception) -> LoadError:
    """The error for an archive that cannot be read."""
    return LoadError(
        f"{path} is a damaged archive: {str(error).rstrip('.')}.",
        hint="Compare its size with the original's, and download or copy it again.",
    )


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
