"""Reads files that torch.save wrote: pickled modules and state dicts."""

from __future__ import annotations

import io
import pickle
import threading
import zipfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from deployfold.errors import LoadError, first_line
from deployfold.loading.archive import read_entries
from deployfold.loading.importing import working_directory_importable
from deployfold.loading.placeholder import close, mappings_in, stand_ins
from deployfold.loading.safe_globals import (
    LEGACY_PICKLES,
    PROTOCOL,
    allowed_for,
    inspect_globals,
)
from deployfold.util.quiet import without_warnings

from .format import Content, Format, Header, Permissions

_ALLOWING = threading.RLock()
"""Torch has one list of allowed globals for the whole process. One file at a time is loaded, so
that each meets its own alone, and none outlasts it."""


def recognise(header: Header) -> bool:
    """A zip archive with ``data.pkl``, or a bare pickle of protocol 2 to 5."""
    if header.entries is not None:
        return "data.pkl" in header.entries
    return header.head[:1] == b"\x80" and header.head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def read(path: Path, permissions: Permissions) -> Content:
    """The object tree of the file.

    Raises:
        LoadError: see :func:`load_pickle`.
    """
    allow, trust = permissions.allow_globals, permissions.trust
    return Content(tree=load_pickle(path, allow_globals=allow, trust=trust))


FORMAT = Format("pickle", (".pt", ".pth", ".ckpt", ".bin", ".pth.tar"), recognise, read)


def load_pickle(
    path: Path, *, allow_globals: Sequence[str] = (), trust: bool = False, strict: bool = False
) -> Any:
    """Unpickle ``path`` on the CPU.

    Args:
        path: the file.
        allow_globals: classes to allow, besides those of known packages.
        trust: unpickle in full, which can run any code.
        strict: refuse a file with any other global, instead of replacing its objects by inert
            :class:`~deployfold.loading.placeholder.Placeholder` objects.

    Raises:
        LoadError: the file is damaged, or uses a global that is not allowed.
    """
    _check_magic(path)
    made: list[tuple[type, str]] = []
    if trust:
        allowed: list[Any] = []
    elif strict:
        allowed = [*allowed_for(path, allow_globals)]
    else:
        found = inspect_globals(path, allow_globals)
        if found.refused:
            made = stand_ins(found.refused, _mappings(path))
        allowed = [*found.allowed, *made]
    # Trusted pickles import the user's own modules by name.
    importable = working_directory_importable() if trust else nullcontext()
    # torch.load takes a path of that suffix for safetensors, whatever the file contains.
    misnamed = path.suffix == ".safetensors"
    try:
        with (
            _ALLOWING, without_warnings(), importable, torch.serialization.safe_globals(allowed),
            path.open("rb") as file,
        ):  # fmt: skip
            source: Any = file if misnamed else path
            return torch.load(source, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        reason = _reason(error)
        safer = "save model.state_dict(), or save the module again with a current torch"
        if reason == PROTOCOL:
            safer = "save it again without pickle_protocol"
        raise LoadError(
            f"{path} was not unpickled: {reason}",
            hint=f"If you trust its author, --trust unpickles it in full. Safer: {safer}.",
        ) from error
    except MemoryError as error:
        raise LoadError(f"{path} needs more memory than this machine has free.") from error
    except Exception as error:  # damaged bytes and foreign classes can raise any exception
        raise LoadError(
            f"{path} cannot be loaded: {type(error).__name__}: {_reason(error)}",
            hint="The file may be damaged, or from another version of its package.",
        ) from error
    finally:
        close(made)


def _check_magic(path: Path) -> None:
    """Refuse a pickle without the number that torch.save wrote first before it wrote archives."""
    with path.open("rb") as file:
        head = file.read(64)
    if (
        not head.startswith(b"PK")
        and torch.serialization.MAGIC_NUMBER.to_bytes(10, "little") not in head
    ):
        raise LoadError(
            f"{path} is a pickle that torch.save did not write, or it is damaged.",
            hint="Unpickle it with its own library, and save the weights with "
            "torch.save(state_dict, path).",
        )


def _mappings(path: Path) -> set[str]:
    """The globals in ``path`` whose objects get items by key."""
    if zipfile.is_zipfile(path):
        entries = read_entries(path, lambda name: name == "data.pkl")
        return set().union(*(mappings_in(io.BytesIO(one)) for one in entries.values()))
    with path.open("rb") as file:
        return set().union(*(mappings_in(file) for _ in range(LEGACY_PICKLES)))


def _reason(error: BaseException) -> str:
    _, marked, text = str(error).rpartition("WeightsUnpickler error:")
    if "persistent_load of storage" in text:
        return "torch cannot restrict a whole module in its file format of before 2020."
    if text.strip().startswith("Unsupported operand"):
        return PROTOCOL
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300] if marked and lines else first_line(error)
