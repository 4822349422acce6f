"""Unpacks a bundle after checking it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from deployfold.errors import BundleError, UsageError
from deployfold.util.files import temporary_directory, unwritable

from .manifest import Manifest
from .scan import Limits, scan


def unpack(path: Path, directory: Path, limits: Limits | None = None) -> Manifest:
    """Check the whole bundle, then unpack it into a new or empty directory.

    The files go to a temporary directory, are checked again while they are written, and then move
    to ``directory`` in one step.

    Returns:
        The manifest.

    Raises:
        BundleError: the bundle fails a check, and no file is written.
        UsageError: the directory is not empty, or cannot be written to.
    """
    if is_taken(directory):
        raise UsageError(f"{directory} is not empty.", hint="Choose a new directory.")
    manifest = scan(path, limits)
    with temporary_directory(directory) as temporary:
        free = shutil.disk_usage(temporary).free
        if manifest.size > free:
            raise BundleError(
                f"{path.name} needs {manifest.size / 1e6:.0f} MB, but {free / 1e6:.0f} MB are free."
            )
        scan(path, limits, sink=lambda name: _writing(temporary / name))
        if directory.exists():
            directory.rmdir()
        temporary.rename(directory)
    return manifest


def is_taken(directory: Path) -> bool:
    """Whether the path exists and is not an empty directory."""
    try:
        return directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    except OSError as error:  # the directory is not readable, or was removed meanwhile
        raise unwritable(directory, error) from error


@contextmanager
def _writing(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
