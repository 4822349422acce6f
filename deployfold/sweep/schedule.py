"""Runs jobs on this machine: in parallel, as far as memory allows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition
from typing import Any

from deployfold.errors import DeployfoldError, one_line

from .jobs import RECORD, Job, read_record
from .work import Outcome, Processes, run_job

GIB = 1 << 30
BASE_BYTES = int(1.5 * GIB)
PER_BYTE = 6
"""A build is taken to need ``BASE_BYTES`` and this many times its checkpoint.

``tests/benchmarks/scale.py`` measured, with the process that compiles the engine, 1.3 GB for a
checkpoint of 0.05 GB (ResNet-18), 2.5 GB for 0.24 (ResNet-152) and 4.4 GB for 0.58 (RegNet-Y-32GF),
in FP16 at 64x64: 1.1 GB and 5.7 times the checkpoint. INT8 took up to 0.4 GB more than FP16 of
the same small model, and images of usual size take more than these.
"""


class MemoryGate:
    """Lets a job begin when what it needs is free; one job may always run."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._running = 0
        self._changed = Condition()

    @contextmanager
    def holding(self, wanted: int) -> Iterator[None]:
        """Wait for ``wanted`` bytes, and give them back after the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running or self._used + wanted <= self._limit)
            self._used += wanted
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._used -= wanted
                self._running -= 1
                self._changed.notify_all()


def run_here(jobs: Sequence[Job], *, workers: int, memory: int | None) -> Iterator[Outcome]:
    """Run jobs in ``workers`` processes at a time; yields each outcome as it comes.

    Args:
        memory: bytes that all together may take; ``None`` takes what is free now.
    """
    gate = MemoryGate(available_memory() if memory is None else memory)
    processes = Processes()
    threads = max(1, cpus() // workers)
    environment = {"OMP_NUM_THREADS": str(threads)} if workers > 1 else {}

    def one(job: Job) -> tuple[Outcome, ...]:
        with gate.holding(expected_memory(job)):
            return () if processes.stopped else run_job(job, processes, environment)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="sweep")
    try:
        futures = {pool.submit(one, job): job for job in jobs}
        for future in as_completed(futures):
            yield from outcomes_of(future, futures[future])
    finally:
        processes.stop()
        pool.shutdown(cancel_futures=True)


def outcomes_of(future: Any, job: Job) -> tuple[Outcome, ...]:
    """What became of a job, also where it could not even begin: the other jobs go on."""
    try:
        outcomes: tuple[Outcome, ...] = future.result()
    except Exception as error:
        why = error.message if isinstance(error, DeployfoldError) else one_line(error)
        return (Outcome(job, 0.0, failure=f"{type(error).__name__}: {why}", code=1),)
    return outcomes


def expected_memory(job: Job) -> int:
    """Bytes that a build of this job is taken to need.

    By the size of its checkpoint, or by what another build of the model has taken, if that is
    more. Of an architecture by name nothing is known before its first build.
    """
    records = job.directory.parent.glob(f"*/{RECORD}")
    seen = max((read_record(path).get("peak_bytes") or 0 for path in records), default=0)
    with suppress(OSError):
        return max(seen, BASE_BYTES + PER_BYTE * Path(job.model.source).stat().st_size)
    return max(seen, BASE_BYTES)


def available_memory() -> int:
    """Bytes that can be allocated now; all of the machine's where it does not tell."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 8 * GIB


def cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
