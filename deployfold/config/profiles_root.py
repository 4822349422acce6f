"""Where the shipped TOML profiles are."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from deployfold.errors import DeployfoldError


def profiles_root() -> Path:
    """The directory that holds ``gpus/`` and ``builds/``.

    A wheel carries it inside the package; in an editable install it lies beside the package, in
    the repository.

    Raises:
        DeployfoldError: neither place has it, so the installation is broken.
    """
    package = Path(str(files("deployfold")))
    for root in (package / "profiles", package.parent / "profiles"):
        if (root / "gpus").is_dir():
            return root
    raise DeployfoldError(
        "The profiles that ship with deployfold are missing.",
        hint="Install it again: pip install --force-reinstall deployfold.",
    )
