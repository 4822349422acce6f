"""Runs jobs on this machine: in parallel, as far as memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition
from typing import Any

from deployfold.errors import DeployfoldError, one_line
from deployfold.measuring.machine_load import allowed_cpus
from deployfold.util.memory import available_bytes

from .jobs import RECORD, Job, read_record
from .work import Outcome, Processes, run_job

GIB = 1 << 30
_UNKNOWN_MEMORY = 8 * GIB
"""Assumed memory of a machine that does not report any."""
BASE_BYTES = int(1.5 * GIB)
PER_BYTE = 6
"""A build is expected to need ``BASE_BYTES`` and this many times its checkpoint.

``tests/benchmarks/scale.py`` measured, with the process that compiles the engine, 1.3 GB for a
checkpoint of 0.05 GB (ResNet-18), 2.5 GB for 0.24 (ResNet-152) and 4.4 GB for 0.58 (RegNet-Y-32GF),
in FP16 at 64x64: 1.1 GB and 5.7 times the checkpoint. INT8 took up to 0.4 GB more than FP16 of
the same small model, and images of usual size take more than these.
"""


class MemoryGate:
    """Delays a job until its memory is free. One job may always run."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._running = 0
        self._changed = Condition()

    @contextmanager
    def holding(self, wanted: int) -> Iterator[None]:
        """Wait for ``wanted`` bytes, and release them after the block."""
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
    """Run jobs in ``workers`` processes at a time, and yield each outcome when it is known.

    Args:
        workers: number of simultaneous jobs.
        memory: bytes for all jobs together; ``None`` for the memory that is free now.
    """
    gate = MemoryGate(memory or available_bytes() or _UNKNOWN_MEMORY)
    processes = Processes()
    threads = max(1, len(allowed_cpus()) // workers)
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
    """The outcomes of a job. A job that could not start is an outcome too; other jobs continue."""
    try:
        outcomes: tuple[Outcome, ...] = future.result()
    except Exception as error:
        why = error.message if isinstance(error, DeployfoldError) else one_line(error)
        return (Outcome(job, 0.0, failure=f"{type(error).__name__}: {why}", code=1),)
    return outcomes


def expected_memory(job: Job) -> int:
    """Bytes that a job is expected to need.

    The estimate follows from the size of the checkpoint, or is the peak of an earlier build of the
    model if that is greater. An architecture by name has no checkpoint before its first build.
    """
    records = job.directory.parent.glob(f"*/{RECORD}")
    seen = max((read_record(path).get("peak_bytes") or 0 for path in records), default=0)
    with suppress(OSError):
        return max(seen, BASE_BYTES + PER_BYTE * Path(job.model.source).stat().st_size)
    return max(seen, BASE_BYTES)
