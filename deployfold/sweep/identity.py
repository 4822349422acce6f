"""Hashes everything that affects the result of a build, so that equal keys mean equal builds."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

from deployfold.config.build_options import code_keys, path_keys
from deployfold.config.flag_values import is_function
from deployfold.config.precision import Precision
from deployfold.lowering.cache import cache_key
from deployfold.measuring.environment import package_versions
from deployfold.targets.machine import detect
from deployfold.util.files import sha256, unreadable

from .fleet import FleetModel

_WITHOUT_EFFECT = ("description", "timeout", "timing-cache")
"""Settings that do not affect the result. Builds write the timing cache, so its content must not be
part of the key."""


def key_of(model: FleetModel, precision: Precision, auto_gpu: str | None = None) -> str:
    """Hex SHA-256 over the checkpoint, the data, the settings and the versions of the packages.

    Args:
        auto_gpu: the GPU of the target ``auto``.

    Raises:
        UsageError: a checkpoint or data cannot be read.
    """
    settings = {
        key: _setting(key, value)
        for key, value in model.settings.items()
        if key not in _WITHOUT_EFFECT
    }
    parts = {
        "name": model.name,
        "source": _content(model.source),
        "precision": precision.value,
        "settings": json.dumps(settings, sort_keys=True),
        "versions": json.dumps(package_versions(), sort_keys=True),
    }
    return cache_key(parts if auto_gpu is None else {**parts, "auto": auto_gpu})


def gpu_here() -> str:
    """The GPU of the target ``auto`` on this machine, or ``none``."""
    gpu = detect().gpu
    return "none" if gpu is None else "{} {}.{}".format(gpu.name, *gpu.compute_capability)


def _setting(key: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    if key in code_keys() and is_function(value):
        return f"{value} {_code_hash(value)}"
    return _content(value) if key in path_keys() else value


def _code_hash(function: str) -> str:
    """The hash of the user's module or package; empty for a library, whose version counts."""
    top = Path(function.partition(":")[0].partition(".")[0])
    for path in (top.with_suffix(".py"), top):
        if path.exists():
            return _content(str(path))
    return ""


def _content(value: str) -> str:
    """The hash of the file or directory at a path; other words are returned as they are.

    Raises:
        UsageError: the value looks like a path, and the path does not exist or cannot be read.
    """
    if value in ("auto", "random") or (":" in value and not Path(value).exists()):
        return value
    path = Path(value)
    try:
        return _directory_hash(path) if path.is_dir() else _file_hash(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise unreadable(path, error) from error


@lru_cache(maxsize=1024)
def _file_hash(path: Path, changed: int) -> str:
    return sha256(path)  # cached, because many cells share a checkpoint


def _directory_hash(path: Path) -> str:
    digest = hashlib.sha256()
    for place, directories, names in os.walk(path):
        directories[:] = sorted(name for name in directories if name != "__pycache__")
        for name in sorted(names):
            file = Path(place) / name
            if file.is_file():
                digest.update(f"{file.relative_to(path)}\0".encode("utf-8", "surrogateescape"))
                digest.update(_file_hash(file, file.stat().st_mtime_ns).encode())
    return digest.hexdigest()
