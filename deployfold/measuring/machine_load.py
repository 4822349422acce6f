"""The load of the machine during a measurement: other programs, the governor, the load average.

The values come from Linux's ``/proc`` and ``/sys``. On other systems, and in containers that hide
these files, the values are ``None``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROC_STAT = Path("/proc/stat")
CPUFREQ = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Contention:
    """The CPU time that others took, as a number of CPUs.

    Attributes:
        others: the CPU time of other programs, and of a hypervisor's other guests, divided by the
            elapsed time.
        cpus: the number of CPUs (hardware threads) that this process may run on.
    """

    others: float
    cpus: int


@dataclass(frozen=True)
class _Clock:
    wall: float
    own: float
    busy: float


class CpuWatch:
    """Compares the machine's CPU time with that of this process, between two calls.

    ``/proc/stat`` counts in ticks of 10 ms, so less than half a second gives no result.

    Args:
        stat: the file to read.
        wall: returns the seconds of a monotonic clock.
        own: returns the CPU seconds of this process and its finished children.
    """

    MIN_SECONDS = 0.5

    def __init__(
        self,
        stat: Path = PROC_STAT,
        *,
        wall: Callable[[], float] = time.perf_counter,
        own: Callable[[], float] | None = None,
    ) -> None:
        self._stat = stat
        self._wall = wall
        self._own = own or _own_seconds
        self._cpus = allowed_cpus()
        self._before: _Clock | None = None

    def start(self) -> None:
        """Begin the comparison."""
        self._before = self._now()

    def stop(self) -> Contention | None:
        """The CPU time of others since :meth:`start`; ``None`` if the system does not report it."""
        before, after = self._before, self._now()
        if before is None or after is None:
            return None
        seconds = after.wall - before.wall
        if seconds < self.MIN_SECONDS:
            return None
        others = (after.busy - before.busy) - (after.own - before.own)
        cpus = len(self._cpus)
        return Contention(min(max(others / seconds, 0.0), float(cpus)), cpus)

    def _now(self) -> _Clock | None:
        busy = _busy_seconds(self._stat, self._cpus)
        return None if busy is None else _Clock(self._wall(), self._own(), busy)


def preemptions() -> int:
    """The number of times that the scheduler preempted a thread of this process.

    The value is ``ru_nivcsw`` of ``getrusage(2)`` over all threads; 0 if the system does not count.
    """
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def governor(root: Path = CPUFREQ) -> str | None:
    """The CPU frequency governor, such as ``performance``; several names if the CPUs differ."""
    found = set()
    for cpu in allowed_cpus():
        try:
            path = root / f"cpu{cpu}" / "cpufreq" / "scaling_governor"
            found.add(path.read_text(encoding="ascii").strip())
        except (OSError, ValueError):
            continue
    return ", ".join(sorted(found)) or None


def load_average() -> float | None:
    """The average number of processes that ran or waited in the last minute, with this one."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):  # Windows
        return None


def allowed_cpus() -> tuple[int, ...]:
    """The system's numbers of the CPUs (hardware threads) that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _busy_seconds(path: Path, cpus: tuple[int, ...]) -> float | None:
    """The busy seconds of ``cpus`` since boot, with stolen time; see proc(5).

    The fields are user, nice, system, idle, iowait, irq, softirq, steal, guest and guest_nice. The
    fields user and nice already include the last two.
    """
    wanted = {f"cpu{cpu}" for cpu in cpus}
    busy, found = 0.0, 0
    try:
        ticks = os.sysconf("SC_CLK_TCK")
        for line in path.read_text(encoding="ascii").splitlines():
            name, *fields = line.split()
            if name in wanted:
                values = [int(field) for field in fields[:8]]
                busy += sum(values) - sum(values[3:5])
                found += 1
    except (OSError, ValueError, AttributeError):
        return None
    return busy / ticks if found == len(wanted) and busy else None
