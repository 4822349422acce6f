"""Files that are either whole or not there.

What is being written has a temporary name, which begins with ``.tmp-`` and ends with the final one,
and is locked by the process that writes it. A process that is killed leaves its temporary files;
the next that writes the same name finds them unlocked, and removes them.
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
from pathlib import Path

from deployfold.errors import DeployfoldError, UsageError

from .locks import try_lock

_PREFIX = ".tmp-"


@contextmanager
def atomic_path(path: Path, *, name: str | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds.

    The temporary name starts with a dot and keeps ``path``'s suffixes, since some writers choose
    the format by them. Whatever was at ``path`` before stays until the new file is complete.

    Args:
        name: of the temporary file, which then lies in a directory of its own; for writers that
            store it inside.

    Raises:
        UsageError: the directory cannot be written to, or the disk is full.
    """
    make_directory(path.parent)
    try:
        locked, lock = _make_locked(path, _make_file if name is None else _make_directory)
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
        # torch's writer says "unexpected pos 6464 vs 6368" of a disk that is full.
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
    """Yield a new directory beside ``path``, on its file system; it is gone at the end.

    Raises:
        UsageError: there, or in the block, the operating system did not let us write ``path``.
    """
    path = path.absolute()
    make_directory(path.parent)
    try:
        directory, lock = _make_locked(path, _make_directory)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield directory
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        _close(lock)


def _make_locked(path: Path, make: Callable[[Path], Path]) -> tuple[Path, int | None]:
    """Make something temporary for ``path``, and lock it; also clear away what is left of others.

    Returns:
        It, and the descriptor that holds the lock; ``None`` where there are no locks.
    """
    _clear_left(path)
    while True:
        temporary = make(path)
        try:
            lock = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another run took it for left before it was locked
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


def _make_file(path: Path) -> Path:
    return _make_new(path, lambda new: new.touch(exist_ok=False))


def _make_directory(path: Path) -> Path:
    return _make_new(path, lambda new: new.mkdir())


def _make_new(path: Path, make: Callable[[Path], None]) -> Path:
    """Make a new temporary file or directory with the permissions of any other new one.

    ``tempfile`` makes them for the owner alone. Widening them afterwards takes the user's umask,
    which can only be read by setting it, for every thread of the process.
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
    """Remove what killed processes left of writing ``path``: nobody holds its lock."""
    # Eight hexadecimal digits are in the middle; earlier versions used letters and _ as well.
    name = re.compile(re.escape(_PREFIX) + "[a-z0-9_]{8}-" + re.escape(path.name))
    with suppress(OSError):
        for left in [one for one in path.parent.iterdir() if name.fullmatch(one.name)]:
            with suppress(OSError):
                _remove_unlocked(left)


def _remove_unlocked(left: Path) -> None:
    # What is a named pipe or a link is not ours, and opening it must not wait for a writer.
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
    """Whether nothing more can be written there."""
    return shutil.disk_usage(directory).free == 0


def make_directory(path: Path) -> None:
    """Make a directory, and those above it, where it is not there.

    Raises:
        UsageError: the operating system does not let us.
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
    """The error for a path that the operating system will not let us write."""
    reason = error.strerror or str(error)
    if error.errno is None and re.search(r"\d+ requested and \d+ written", reason):
        reason = os.strerror(errno.ENOSPC)  # what numpy says of a disk that is full
    return UsageError(
        f"Cannot write {path}: {reason}.",
        hint="Free some space, or choose another place with -o DIR.",
    )


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
