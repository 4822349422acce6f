"""The names of devices. All rows of a table run on one device, so that one clock times them."""

from __future__ import annotations

CPU = "cpu"


def is_gpu(device: str | None) -> bool:
    """Whether a resolved device is a GPU."""
    return device is not None and device.startswith("cuda")


def gpu_index(device: str | None) -> int:
    """The index of a GPU: 1 for ``cuda:1``, and 0 if the device has no index."""
    return int(device.partition(":")[2] or 0) if device is not None and is_gpu(device) else 0
