"""Timing caches: what TensorRT measured of its kernels in one build, for the next."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from deployfold.compiling.request import Library
from deployfold.util.files import write_bytes


def cache_file(directory: Path, gpu: str, library: Library, version: str) -> Path:
    """The cache of one GPU model, library and version: timings of another are of no use.

    Args:
        gpu: the GPU's name and SM, such as ``NVIDIA L4 sm_89``.
    """
    name = "-".join((library, version, gpu))
    return directory / (re.sub(r"[^A-Za-z0-9._]+", "-", name) + ".timing")


def load_cache(config: Any, path: Path) -> bool:
    """Give ``config`` the cache at ``path``, or an empty one; whether there was one to use.

    A cache that the library does not take (another driver, or damaged) is replaced in the end.
    """
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    cache = config.create_timing_cache(content)
    if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
        return bool(content)
    config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    return False


def save_cache(config: Any, path: Path) -> None:
    """Write what the build measured, with what was there before it, to ``path``.

    Raises:
        UsageError: it cannot be written.
    """
    cache = config.get_timing_cache()
    if cache is not None:
        write_bytes(path, bytes(memoryview(cache.serialize())))
