"""Runs a sweep: finds the missing builds, builds them, and reports on all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from deployfold.compiling.planning import plan_engines
from deployfold.compiling.records import NoEngine
from deployfold.errors import UsageError
from deployfold.events import Emit, Note, StageFinished, StageProgress, StageStarted
from deployfold.measuring.machine_load import allowed_cpus
from deployfold.targets.machine import detect
from deployfold.util.files import make_directory, unwritable
from deployfold.util.locks import claim

from .cluster import gpu_of_workers, run_on_dask
from .fleet import Fleet
from .jobs import Cell, Job, cells_of, finished, pending
from .schedule import GIB, run_here
from .summary import CellResult, summarise, write_summary
from .work import WORK, Outcome

STAGE = "sweep"


def sweep(
    fleet: Fleet, root: Path, *, emit: Emit, jobs: int | None = None, scheduler: str | None = None
) -> tuple[CellResult, ...]:
    """Build the missing parts of a fleet, and keep ``sweep.json`` and ``sweep.md`` up to date.

    Args:
        fleet: the content of the fleet file.
        root: the directory of the results, which may have those of earlier sweeps.
        emit: receives the progress.
        jobs: number of simultaneous builds; overrides the fleet file.
        scheduler: ``dask://HOST:PORT``; ``None`` builds on this machine.

    Returns:
        One result for each model, precision and target, in the order of the fleet file.

    Raises:
        UsageError: the directory cannot be written, another sweep uses it, or builds would measure
            latency while other builds run.
    """
    cells = _cells(fleet, scheduler)
    root = root.resolve()
    with _locked(root):
        done = finished(cells, root)
        missing = pending(cells, done, root)
        count, outcomes = len(cells), list[Outcome]()
        write_summary(summarise(cells, done, (), root), root)
        earlier = f", {len(done)} of them from an earlier run" if done else ""
        emit(StageStarted(STAGE, f"{len(missing)} builds"))
        seconds = 0.0
        for outcome in _run(missing, fleet, jobs, scheduler):
            outcomes.append(outcome)
            seconds += outcome.seconds
            done = finished(cells, root)
            results = summarise(cells, done, outcomes, root)
            write_summary(results, root)
            if outcome.failure is not None:
                emit(Note(f"{outcome.job.title}: {outcome.failure}", "warning"))
            emit(StageProgress(STAGE, outcome.job.title, len(outcomes) / max(1, len(missing))))
        results = summarise(cells, done, outcomes, root)
        built = sum(result.state in ("built", "to finish") for result in results)
        emit(StageFinished(STAGE, f"{built} of {count}{earlier}", seconds))
    return results


def planned(fleet: Fleet, root: Path, scheduler: str | None = None) -> tuple[Job, ...]:
    """The jobs that :func:`sweep` would run now."""
    cells = _cells(fleet, scheduler)
    return pending(cells, finished(cells, root.resolve()), root.resolve())


def refusals(jobs: Sequence[Job]) -> tuple[str, ...]:
    """The engines of the jobs that no library builds on any machine, each with the reason."""
    machine = detect()
    return tuple(
        f"{cell.model.name} {cell.precision.value} for {cell.target}: {entry.reason}"
        for job in jobs
        for cell in job.cells
        for entry in plan_engines([cell.target], cell.precision, machine)
        if isinstance(entry, NoEngine) and not entry.elsewhere
    )


def _cells(fleet: Fleet, scheduler: str | None) -> tuple[Cell, ...]:
    """The cells of a fleet; ``auto`` is the GPU of the machines that will build."""
    if scheduler is None or not fleet.asks_for_auto:
        return cells_of(fleet)
    return cells_of(fleet, gpu_of_workers(scheduler))


def _run(
    missing: Sequence[Job], fleet: Fleet, jobs: int | None, scheduler: str | None
) -> Iterator[Outcome]:
    if not missing:
        return iter(())
    if scheduler is not None:
        return run_on_dask(missing, scheduler)
    asked = jobs or fleet.jobs
    if fleet.measures and (asked or 1) > 1:
        raise UsageError(
            "Latency cannot be measured while other builds run.",
            hint="Set no-measure = true under [build], or build one at a time with --jobs 1.",
        )
    workers = asked or (1 if fleet.measures else max(1, len(allowed_cpus()) // 2))
    memory = None if fleet.memory_gib is None else int(fleet.memory_gib * GIB)
    return run_here(missing, workers=workers, memory=memory)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keep other sweeps out of ``root``, and remove the temporary files of a killed sweep."""
    make_directory(root)
    try:
        # Lock a file, because NFS, which clusters often use, cannot lock directories.
        lock = (root / ".lock").open("w")
    except OSError as error:
        raise unwritable(root, error) from error
    with lock:
        claim(lock.fileno(), root)
        for left in root.glob(f"*/{WORK}*"):
            with suppress(OSError):
                shutil.rmtree(left)
        yield
