"""Unpacks a bundle after checking it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from deployfold.errors import BundleError
from deployfold.reporting import text
from deployfold.util.files import check_new, new_directory

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
    check_new(directory)
    manifest = scan(path, limits)
    with new_directory(directory) as temporary:
        free = shutil.disk_usage(temporary).free
        if manifest.size > free:
            raise BundleError(
                f"{path.name} needs {text.size(manifest.size)}, but {text.size(free)} are free."
            )
        scan(path, limits, sink=lambda name: _writing(temporary / name))
    return manifest


@contextmanager
def _writing(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
