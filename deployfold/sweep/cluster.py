"""Runs jobs on the workers of a Dask scheduler, on this and other machines."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from deployfold.errors import UsageError

from .identity import gpu_here
from .jobs import Job
from .schedule import outcomes_of
from .work import Outcome, run_job


def gpu_of_workers(address: str) -> str:
    """The GPU of the target ``auto`` on the workers, which must all have the same GPU.

    Args:
        address: ``dask://HOST:PORT``.

    Raises:
        UsageError: the scheduler does not answer, or the workers' GPUs differ.
    """
    with _client(address) as client:
        _workers(client, address)
        found: list[str] = sorted(set(client.run(gpu_here).values()))
    if len(found) > 1:
        raise UsageError(
            f"The workers have different GPUs for the target auto: {', '.join(found)}.",
            hint='Name the GPUs in the fleet file, such as targets = ["l4"].',
        )
    return found[0]


def run_on_dask(jobs: Sequence[Job], address: str) -> Iterator[Outcome]:
    """Run jobs on the workers of a Dask scheduler, and yield each outcome when it is known.

    The workers need deployfold, and the directory of the sweep at the same path. A worker that has
    a resource named like a target (``dask worker --resources l4=1``) gets the jobs of this target.
    If a worker dies, another worker repeats its job.

    Args:
        address: ``dask://HOST:PORT``.

    Raises:
        UsageError: the package is missing, the scheduler does not answer, or a worker cannot see
            the directory.
    """
    with _client(address) as client:
        from distributed import as_completed

        workers = _workers(client, address)
        _check_shared(client, jobs)
        named = {name for worker in workers.values() for name in worker.get("resources", {})}
        futures = {
            client.submit(
                run_job,
                job,
                key=f"deployfold-{job.directory.name}-{uuid.uuid4().hex[:8]}",
                pure=False,
                resources={name: 1 for name in job.targets if name in named},
            ): job
            for job in _by_resource(jobs, named)
        }
        try:
            for future in as_completed(futures):
                yield from outcomes_of(future, futures[future])
        finally:
            client.cancel(list(futures))


def _by_resource(jobs: Sequence[Job], named: set[str]) -> Iterator[Job]:
    """The jobs, split so that each needs one kind of worker."""
    for job in jobs:
        free = tuple(target for target in job.targets if target not in named)
        if free:
            yield job.only(targets=free)
        for target in job.targets:
            if target in named:
                yield job.only(targets=[target])


def _check_shared(client: Any, jobs: Sequence[Job]) -> None:
    probe = jobs[0].root / f".probe-{uuid.uuid4().hex}"
    probe.touch()
    try:
        blind = [
            worker for worker, sees in client.run(os.path.exists, str(probe)).items() if not sees
        ]
    finally:
        probe.unlink()
    if blind:
        raise UsageError(
            f"The Dask worker {blind[0]} has no directory {jobs[0].root}.",
            hint="Put the sweep's directory, the fleet file and its models on a shared disk.",
        )


def _workers(client: Any, address: str) -> dict[str, Any]:
    workers: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        raise UsageError(
            f"The scheduler at {address} has no workers.", hint=f"dask worker {address[7:]}"
        )
    return workers


def _client(address: str) -> Any:
    if not address.startswith("dask://"):
        raise UsageError(
            f"{address!r} is not the address of a scheduler.",
            hint="Write it as --scheduler dask://HOST:PORT.",
        )
    try:
        import distributed
    except ImportError as error:
        raise UsageError(
            "--scheduler needs the package distributed.", hint="pip install 'deployfold[dask]'"
        ) from error
    try:
        return distributed.Client("tcp://" + address.removeprefix("dask://"), timeout="10s")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"No Dask scheduler answers at {address}.", hint="Start one with: dask scheduler"
        ) from error
