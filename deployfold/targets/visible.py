"""Finds CUDA's device 0, which may differ from GPU 0 of ``nvidia-smi``.

``CUDA_VISIBLE_DEVICES`` hides and reorders GPUs. By default, CUDA lists the fastest GPU first, and
``nvidia-smi`` lists GPUs by PCI address. Only the UUID is common to both. A child process queries
CUDA, so that a crash of the driver does not end this process.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache

from deployfold.util.child import command, environment

_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class CudaDevice:
    """CUDA's device 0 according to the driver's API."""

    uuid: str
    name: str
    compute_capability: tuple[int, int]


def first_cuda_device() -> CudaDevice | None:
    """CUDA's device 0; ``None`` if there is no device or the driver does not answer."""
    return _ask(tuple(os.environ.get(name) for name in _VARIABLES))


def is_restricted() -> bool:
    """Whether the environment hides GPUs from CUDA, or reorders them."""
    return any(name in os.environ for name in _VARIABLES[:2])


@lru_cache(maxsize=8)
def _ask(variables: tuple[str | None, ...]) -> CudaDevice | None:
    with tempfile.TemporaryDirectory(prefix="deployfold-") as directory:
        try:
            done = subprocess.run(
                command("deployfold.runtimes.cuda", "main"),
                cwd=directory,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            uuid, name, major, minor = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError):
            return None
    return CudaDevice(uuid, name, (major, minor))
