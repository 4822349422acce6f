"""The greatest memory that this process has taken, and giving back what is not used."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from pathlib import Path

_WORTH_BYTES = 1 << 30
"""Resident memory from which on a tenth of a second is worth getting some of it back."""


def release() -> None:
    """Give back what nobody uses any more, where the process is large.

    Graphs refer to their nodes and these to their graph: with all their weights they stay until
    Python looks for cycles, which it does by the number of objects and not by their size. And
    glibc keeps what is freed below something that is not.
    """
    resident = _status("VmRSS:", Path("/proc/self/status"))
    if resident is not None and resident < _WORTH_BYTES:
        return
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another libc has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


def forget_peak() -> None:
    """Let the peak begin again at what is resident now, where the system allows it."""
    with suppress(OSError):  # not Linux, or a container forbids it
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """The greatest resident memory of this process since :func:`forget_peak`, in bytes.

    On Linux from ``VmHWM``: ``ru_maxrss`` begins at that of the process it was forked from, which
    may have a whole build in memory. ``None`` where the system does not tell.
    """
    found = _status("VmHWM:", status)
    if found is not None:
        return found
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes, there
    return None


def _status(key: str, status: Path) -> int | None:
    """A size that Linux tells of this process, in bytes."""
    try:
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024  # the kernel's kB are 1024 bytes
    except (OSError, ValueError, IndexError):
        pass
    return None
