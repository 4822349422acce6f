"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DeployfoldError, UsageError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds.

    The temporary name starts with a dot and keeps ``path``'s suffixes, since some writers choose
    the format by them. Whatever was at ``path`` before stays until the new file is complete.

    Raises:
        UsageError: the directory cannot be written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".tmp-", suffix=f"-{path.name}", dir=path.parent)
        os.close(descriptor)
    except OSError as error:
        raise unwritable(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~umask())  # mkstemp gives 0600, whatever the user's umask
        temporary.replace(path)
    except DeployfoldError:
        raise
    except OSError as error:
        raise unwritable(path, error) from error
    except Exception as error:
        # torch's writer says "unexpected pos 6464 vs 6368" of a disk that is full.
        if _full(path.parent):
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise unwritable(path, full) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def temporary_directory(path: Path) -> Iterator[Path]:
    """Yield a new directory beside ``path``, on its file system; it is gone at the end.

    Raises:
        UsageError: there, or in the block, the operating system did not let us write ``path``.
    """
    parent = path.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=".tmp-", dir=parent))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield directory
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _full(directory: Path) -> bool:
    return shutil.disk_usage(directory).free == 0


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


def umask() -> int:
    """The bits that the user's new files are made without."""
    # It can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
