"""What kind of file a checkpoint is, told by its content and not by its name."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from deployfold.errors import LoadError

FileKind = Literal["pickle", "torchscript", "program", "safetensors"]

_INFLATION = 4
"""torch stores its archives uncompressed; entries that claim more than this many times the file's
size are a decompression bomb."""


def detect(path: Path) -> FileKind:
    """The kind of the checkpoint at ``path``.

    Raises:
        LoadError: it cannot be read, is empty or truncated, or is no checkpoint.
    """
    if path.is_dir():
        raise LoadError(f"{path} is a directory.", hint="Give the checkpoint file in it.")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise LoadError(f"Cannot read {path}: {error.strerror}.") from error
    if not size:
        raise LoadError(f"{path} is empty.", hint="Was the download or the copy interrupted?")
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_archive(path, size)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if _is_safetensors(head, size):
        return "safetensors"
    raise LoadError(
        f"{path} is not a checkpoint that torch or safetensors wrote.",
        hint="deployfold reads what torch.save, torch.jit.save, torch.export.save and safetensors "
        "write.",
    )


def _kind_of_archive(path: Path, size: int) -> FileKind:
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
    inner = {name.partition("/")[2] for name in names} | set(names)
    if any(name.startswith("models/") and name.endswith(".json") for name in inner) or (
        "serialized_exported_program.json" in inner
    ):
        return "program"
    if any(name.startswith("code/") for name in inner) and "constants.pkl" in inner:
        return "torchscript"
    if "data.pkl" in inner:
        return "pickle"
    raise LoadError(f"{path} is an archive, and not one that torch wrote.")


def _is_safetensors(head: bytes, size: int) -> bool:
    # Eight bytes of header length, little-endian, then a JSON object.
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= length <= size - 8
