"""Where the shipped TOML profiles are."""

from __future__ import annotations

from pathlib import Path

from deployfold.util.shipped import shipped


def profiles_root() -> Path:
    """The directory that holds ``gpus/`` and ``builds/``.

    Raises:
        DeployfoldError: the installation lacks it.
    """
    return shipped("profiles", "profiles")
