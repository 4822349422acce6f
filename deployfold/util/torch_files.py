"""Writes torch's files so that a full disk becomes an error.

When a write fails, torch's writers throw from a destructor, which ends the process. So Python
writes the bytes, and keeps the error until torch is done.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from .quiet import TORCHSCRIPT_IS_FINE

_IN_MEMORY = 256 << 20
"""Most bytes of weights for serialising TorchScript in memory."""

_BESIDE = 16 << 20
"""Most bytes of TorchScript other than its weights: code, line numbers, constants."""


@contextmanager
def torch_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for ``torch.save`` or ``torch.export.save``.

    Raises:
        OSError: the file could not be written; raised at the end of the block.
    """
    with path.open("wb") as file:
        writer = _Deferring(file)
        yield cast(IO[bytes], writer)
        if writer.error is not None:
            raise writer.error


class _Deferring(io.RawIOBase):
    """A file that keeps its first error and then ignores all writes."""

    def __init__(self, file: BinaryIO) -> None:
        self.error: OSError | None = None
        self._file = file

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._try(lambda: self._file.seek(offset, whence), 0)

    def write(self, data: Any) -> int:
        return self._try(lambda: self._file.write(data), len(data))

    def _try(self, act: Callable[[], int], otherwise: int) -> int:
        if self.error is None:
            try:
                return act()
            except OSError as error:
                self.error = error
        return otherwise


@TORCHSCRIPT_IS_FINE.made()
def save_scripted(module: torch.jit.ScriptModule, path: Path) -> None:
    """Write TorchScript to a file.

    1. torch writes a small module to a file in memory, which Python then copies. torch's own buffer
       would take three copies of the weights, and three times the CPU time.
    2. torch itself writes a large module, after a check of the free space on the disk. So it does
       where the system has no files in memory.

    Raises:
        OSError: the disk has no room, or the file cannot be written.
        RuntimeError: torch cannot serialise the module.
    """
    weights = _weight_bytes(module)
    if weights <= _IN_MEMORY and hasattr(os, "memfd_create"):
        _save_through_memory(module, path)
    elif shutil.disk_usage(path.parent).free < weights + weights // 100 + _BESIDE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    else:
        torch.jit.save(module, path)


def _save_through_memory(module: torch.jit.ScriptModule, path: Path) -> None:
    with (
        os.fdopen(os.memfd_create("archive"), "rb") as memory,
        tempfile.TemporaryDirectory(prefix="deployfold-") as folder,
    ):
        link = Path(folder) / "archive"  # torch stores this name in the file
        link.symlink_to(f"/proc/self/fd/{memory.fileno()}")
        torch.jit.save(module, link)
        with path.open("wb") as file:
            shutil.copyfileobj(memory, file)


def _weight_bytes(module: torch.jit.ScriptModule) -> int:
    """Bytes of parameters and buffers, and of the constants into which freezing turns both."""
    found = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    for node in module.graph.findAllNodes("prim::Constant"):  # type: ignore[attr-defined]
        if node.hasAttribute("value") and node.kindOf("value") == "t":
            found += node.t("value").nbytes
    return int(found)
