"""Locks on files and directories that end with the process that holds them, however it ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UsageError

_HELD = (errno.EWOULDBLOCK, errno.EACCES)
"""What flock(2) says of a lock that another process holds."""


def try_lock(descriptor: int) -> bool:
    """Lock an open file or directory; whether this file system and this system have such locks.

    Raises:
        BlockingIOError: another process, or another descriptor of this one, holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise BlockingIOError(error.errno, error.strerror) from error
        return False  # NFS has none for directories
    return True


@contextmanager
def only_one(directory: Path, what: str) -> Iterator[None]:
    """Keep every other run that writes a build into ``directory`` out of it during the block.

    The directory itself is locked, so that nothing is left in it. Where there are no locks, files
    still appear whole.

    Args:
        what: is at work there, as the error says it: ``build``.

    Raises:
        UsageError: another run is at work there.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:  # Windows opens no directories; and what cannot be written is told elsewhere
        yield
        return
    try:
        try:
            try_lock(descriptor)
        except BlockingIOError as error:
            raise UsageError(
                f"Another {what} is at work in {directory}.",
                hint="Wait for it, or choose another directory with -o DIR.",
            ) from error
        yield
    finally:
        os.close(descriptor)
