"""Writes files that are either complete or absent.

A file has a temporary name while a process writes it: ``.tmp-``, eight digits, and the final name.
The process holds a lock on it. A killed process leaves its temporary files behind; the next process
that writes the same name finds them unlocked and removes them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from deployfold.errors import DeployfoldError, UsageError

from .locks import try_lock

_PREFIX = ".tmp-"


@contextmanager
def atomic_path(path: Path, *, name: str | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds.

    The temporary name starts with a dot and keeps the suffixes of ``path``, because some writers
    choose the format by the suffix. An earlier file at ``path`` stays until the new one is
    complete.

    Args:
        path: the file to write.
        name: the name of the temporary file, which then lies in a temporary directory. Some writers
            store the name inside the file.

    Raises:
        UsageError: the directory cannot be written to, or the disk is full.
    """
    make_directory(path.parent)
    try:
        make = partial(Path.touch, exist_ok=False) if name is None else Path.mkdir
        locked, lock = _make_locked(path, make)
    except OSError as error:
        raise unwritable(path, error) from error
    temporary = locked if name is None else locked / name
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except DeployfoldError:
        raise
    except OSError as error:
        raise unwritable(path, error) from error
    except Exception as error:
        # On a full disk torch's writer reports "unexpected pos 6464 vs 6368".
        if disk_is_full(path.parent):
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise unwritable(path, full) from error
        raise
    finally:
        if name is None:
            locked.unlink(missing_ok=True)
        else:
            shutil.rmtree(locked, ignore_errors=True)
        _close(lock)


@contextmanager
def temporary_directory(path: Path) -> Iterator[Path]:
    """Yield a new directory beside ``path``, on the same file system, and remove it at the end.

    Raises:
        UsageError: the operating system refuses to write there, or raised an error in the block.
    """
    path = path.absolute()
    make_directory(path.parent)
    try:
        directory, lock = _make_locked(path, Path.mkdir)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield directory
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        _close(lock)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory, and rename it to ``path`` if the block succeeds.

    Raises:
        UsageError: ``path`` is not empty, or the operating system refuses.
    """
    check_new(path)
    with temporary_directory(path) as temporary:
        yield temporary
        if path.exists():
            path.rmdir()
        temporary.rename(path)


def check_new(path: Path) -> None:
    """Refuse a path that is neither free nor an empty directory.

    Raises:
        UsageError: names the path.
    """
    try:
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:  # the directory is not readable, or was removed meanwhile
        raise unwritable(path, error) from error
    if taken:
        raise UsageError(f"{path} is not empty.", hint="Choose a new directory.")


def _make_locked(path: Path, make: Callable[[Path], None]) -> tuple[Path, int | None]:
    """Make a temporary file or directory for ``path`` and lock it.

    Temporary files that killed processes left behind are removed first.

    Returns:
        The temporary path, and the descriptor that holds the lock; ``None`` on systems without
        locks.
    """
    _clear_left(path)
    while True:
        temporary = _make_new(path, make)
        try:
            lock = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another process removed it before it was locked
        except OSError:  # Windows opens no directories
            return temporary, None
        try:
            locked = try_lock(lock)
            if not locked:
                os.close(lock)
                return temporary, None
            if os.path.samestat(os.fstat(lock), temporary.stat()):
                return temporary, lock
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(lock)


def _make_new(path: Path, make: Callable[[Path], None]) -> Path:
    """Make a new temporary file or directory with the default permissions.

    ``tempfile`` gives permissions to the owner only. Correcting them would need the user's umask,
    which a process can only read by setting it for all of its threads.
    """
    while True:
        new = path.with_name(f"{_PREFIX}{secrets.token_hex(4)}-{path.name}")
        with suppress(FileExistsError):
            make(new)
            return new


def _close(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _clear_left(path: Path) -> None:
    """Remove the temporary files of ``path`` that killed processes left: nobody locks them."""
    # Eight hexadecimal digits are in the middle; earlier versions used letters and _ as well.
    name = re.compile(re.escape(_PREFIX) + "[a-z0-9_]{8}-" + re.escape(path.name))
    with suppress(OSError):
        for left in [one for one in path.parent.iterdir() if name.fullmatch(one.name)]:
            with suppress(OSError):
                _remove_unlocked(left)


def _remove_unlocked(left: Path) -> None:
    # Named pipes and links are not temporary files; opening a pipe could block.
    if stat.S_IFMT(left.lstat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        return
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    lock = os.open(left, flags)
    try:
        if try_lock(lock):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()
    finally:
        os.close(lock)


def disk_is_full(directory: Path) -> bool:
    """Whether the disk of a directory has no room left."""
    return shutil.disk_usage(directory).free == 0


def make_directory(path: Path) -> None:
    """Make a directory and its parents, unless they exist.

    Raises:
        UsageError: the operating system refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def unwritable(path: Path, error: OSError) -> UsageError:
    """The error for a path that the operating system refuses to write."""
    reason = error.strerror or str(error)
    if error.errno is None and re.search(r"\d+ requested and \d+ written", reason):
        reason = os.strerror(errno.ENOSPC)  # numpy reports a full disk by such a message
    full = reason in (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
    choose = "Free some space, or choose" if full else "Choose"
    return UsageError(f"Cannot write {path}: {reason}.", hint=f"{choose} another place with -o.")


def unreadable(path: Path, error: OSError) -> UsageError:
    """The error for a path that the operating system refuses to read."""
    return UsageError(f"Cannot read {path}: {error.strerror or error}.")


def sha256(*paths: Path) -> str:
    """Hex SHA-256 of the content of a file, or of several files one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
