"""Timing caches: the kernel timings of one TensorRT build, kept for the next."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from deployfold.targets.libraries import Library
from deployfold.util.files import write_bytes


def cache_file(directory: Path, gpu: str, library: Library, version: str) -> Path:
    """The file for one GPU, such as ``NVIDIA L4 sm_89``, library and version: timings fit these."""
    name = "-".join((library, version, gpu))
    return directory / (re.sub(r"[^A-Za-z0-9._]+", "-", name) + ".timing")


def load_cache(config: Any, path: Path) -> None:
    """Set the timing cache at ``path`` in ``config``, or an empty cache if the library refuses it.

    The library refuses damaged caches and those of another driver. :func:`save_cache` replaces
    them.
    """
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def save_cache(config: Any, path: Path) -> None:
    """Write the timings of the build, and those it started with, to ``path``.

    Raises:
        UsageError: the file cannot be written.
    """
    cache = config.get_timing_cache()
    if cache is not None:
        write_bytes(path, bytes(memoryview(cache.serialize())))
