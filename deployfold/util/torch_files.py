"""Writing torch's files, also where the disk fills up meanwhile.

When a write fails, torch's own writers throw out of a destructor, which ends the process. So their
bytes go through Python, which holds a failure back until torch is done.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

_IN_MEMORY = 256 << 20
"""Bytes of weights up to which TorchScript is made in memory, where it is held several times."""

_BESIDE = 16 << 20
"""Bytes of TorchScript that are not weights, at most: code, its line numbers, constants."""


@contextmanager
def torch_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to give to ``torch.save`` or ``torch.export.save``.

    Raises:
        OSError: it could not be written; not before the end of the block.
    """
    with path.open("wb") as file:
        writer = _Deferring(file)
        yield cast(IO[bytes], writer)
        if writer.error is not None:
            raise writer.error


class _Deferring(io.RawIOBase):
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


def save_scripted(module: torch.jit.ScriptModule, path: Path) -> None:
    """Write TorchScript, which torch writes to a path or to memory, and nowhere else: to memory, or
    where it is large, to a disk that has room for it.

    Raises:
        OSError: there is no room for it, or the file cannot be written.
        RuntimeError: torch cannot serialise the module.
    """
    weights = _weight_bytes(module)
    if weights <= _IN_MEMORY:
        path.write_bytes(module.save_to_buffer())
    elif shutil.disk_usage(path.parent).free < weights + weights // 100 + _BESIDE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    else:
        torch.jit.save(module, path)


def _weight_bytes(module: torch.jit.ScriptModule) -> int:
    """Of parameters, buffers, and of the constants that freezing makes of both."""
    found = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    for node in module.graph.findAllNodes("prim::Constant"):  # type: ignore[attr-defined]
        if node.hasAttribute("value") and node.kindOf("value") == "t":
            found += node.t("value").nbytes
    return int(found)
