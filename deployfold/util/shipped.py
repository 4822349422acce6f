"""Finds the files that ship with deployfold beside its code."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from deployfold.errors import DeployfoldError


def shipped(in_package: str, in_repository: str) -> Path:
    """The path of a file or directory: a wheel has it in the package, a checkout beside that.

    Raises:
        DeployfoldError: neither place has it, so the installation is broken.
    """
    package = Path(str(files("deployfold")))
    for path in (package / in_package, package.parent / in_repository):
        if path.exists():
            return path
    raise DeployfoldError(
        f"{in_package}, which ships with deployfold, is missing.",
        hint="Install it again: pip install --force-reinstall deployfold.",
    )
