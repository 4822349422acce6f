"""Locks on files and directories that end with the process that holds them, however it ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployfold.errors import UsageError

_HELD = (errno.EWOULDBLOCK, errno.EACCES)
"""What flock(2) says of a lock that another process holds."""


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file or directory; whether this file system and this system have such locks.

    Args:
        shared: others may hold it as well, if theirs is shared, too.

    Raises:
        BlockingIOError: another process, or another descriptor of this one, holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise BlockingIOError(error.errno, error.strerror) from error
        return False  # NFS has none for directories
    return True


def claim(descriptor: int, directory: Path, *, shared: bool = False) -> None:
    """Lock what is open; ``directory`` is what it stands for.

    Raises:
        UsageError: another run is at work there.
    """
    try:
        try_lock(descriptor, shared=shared)
    except BlockingIOError as error:
        raise UsageError(
            f"Another deployfold is at work in {directory}.",
            hint="Wait for it to end, or choose another directory.",
        ) from error


@contextmanager
def claimed(directory: Path, *, shared: bool = False) -> Iterator[None]:
    """Keep every other run out of the directory of a build during the block.

    The directory itself is locked, so that nothing is left in it. Where there are no locks, files
    still appear whole.

    Args:
        shared: it is only read, and others may read it meanwhile.

    Raises:
        UsageError: another run is at work there.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:  # Windows opens no directories; and what is not there is told elsewhere
        yield
        return
    try:
        claim(descriptor, directory, shared=shared)
        yield
    finally:
        os.close(descriptor)
