"""The greatest resident memory of this process, and of those it has started."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path


def forget_peak() -> None:
    """Let the peak begin again at what is resident now, where the system allows it."""
    with suppress(OSError):  # not Linux, or a container forbids it
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """The greatest resident memory of this process since :func:`forget_peak`, in bytes.

    On Linux from ``VmHWM``: ``ru_maxrss`` begins at that of the process it was forked from, which
    may have a whole build in memory. ``None`` where the system does not tell.
    """
    try:
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024  # the kernel's kB are 1024 bytes
    except (OSError, ValueError, IndexError):
        pass
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes, there
    return None


def children_peak_bytes() -> int:
    """The greatest resident memory of any finished child process so far, in bytes."""
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
