"""The device that all rows of a table run on, so that one clock times them all."""

from __future__ import annotations

CPU = "cpu"


def is_gpu(device: str | None) -> bool:
    """Whether a resolved device is a GPU."""
    return device is not None and device.startswith("cuda")


def gpu_index(device: str | None) -> int:
    """1 for ``cuda:1``; 0 where no GPU is named."""
    return int(device.partition(":")[2] or 0) if device is not None and is_gpu(device) else 0
