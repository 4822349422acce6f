"""Memory: the peak of this process, the memory available, and the release of unused pages."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path

_WORTH_BYTES = 2 << 30
"""Resident memory above which :func:`release` is worth the third of a second that it takes."""

_OF_THIS_PROCESS = Path("/proc/self/status")


def release() -> None:
    """Give unused memory back to the system, if the process is large.

    Graphs refer to their nodes, and nodes to their graph. So they and their weights stay until
    Python searches for cycles, which it does by the number of objects and not by their size. In
    addition, glibc keeps freed memory that lies below memory in use.
    """
    resident = _status("VmRSS:", _OF_THIS_PROCESS)
    if resident is not None and resident < _WORTH_BYTES:
        return
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another libc has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


def forget_peak() -> None:
    """Restart the peak at the memory that is resident now, where the system allows it."""
    with suppress(OSError):  # not Linux, or a container forbids it
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int | None:
    """The greatest resident memory of this process since :func:`forget_peak`, in bytes.

    Linux reports it as ``VmHWM``. ``ru_maxrss`` would start at that of the parent process, which
    may have a whole build in memory. ``None`` where the system does not report it.
    """
    found = _status("VmHWM:", _OF_THIS_PROCESS)
    if found is not None:
        return found
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes, there
    return None


def available_bytes() -> int | None:
    """Memory that can be allocated now, in bytes.

    All memory of the machine where the system does not report more; ``None`` if not even that.
    """
    found = _status("MemAvailable:", Path("/proc/meminfo"))
    if found is None:
        with suppress(OSError, ValueError, AttributeError):
            found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return found


def _status(key: str, file: Path) -> int | None:
    """A size in one of the kernel's files of lines such as ``VmRSS: 1024 kB``, in bytes."""
    try:
        for line in file.read_text(encoding="ascii").splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024  # the kernel's kB are 1024 bytes
    except (OSError, ValueError, IndexError):
        pass
    return None
