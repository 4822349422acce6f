"""Locks on files and directories, which the system releases when the process ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployfold.errors import UsageError

_HELD = (errno.EWOULDBLOCK, errno.EACCES)
"""Error numbers of flock(2) for a lock that another process holds."""


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Try to lock an open file or directory, without waiting.

    Args:
        shared: allow other shared locks beside this one.

    Returns:
        Whether the lock is held now; ``False`` if the system or the file system has no locks.

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
    """Lock an open file or directory for a run of deployfold.

    Args:
        directory: the directory that the lock stands for, for the message.
        shared: allow other shared locks beside this one.

    Raises:
        UsageError: another run uses the directory.
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
    """Keep other runs out of the directory of a build during the block.

    The directory itself is locked, so that no lock file stays in it. Systems without locks still
    get complete files, by :mod:`.files`.

    Args:
        shared: allow other runs that only read it as well.

    Raises:
        UsageError: another run uses the directory.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:  # Windows cannot open directories; the caller reports a missing one
        yield
        return
    try:
        claim(descriptor, directory, shared=shared)
        yield
    finally:
        os.close(descriptor)
