"""Jobs that run at the same time do not affect each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from deployfold.errors import UsageError
from deployfold.sweep.cluster import gpu_of_workers, run_on_dask
from deployfold.sweep.fleet import read_fleet
from deployfold.sweep.jobs import RECORD, Job, cells_of, pending, to_record
from deployfold.sweep.schedule import run_here
from deployfold.sweep.work import on_this_machine, run_job


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests from waiting for other sweeps on this machine."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def jobs(directory: Path, settings: str = "no-measure = true") -> list[Job]:
    """Two jobs: the first cannot make its directory, the second is done already."""
    text = f'targets = ["l4"]\n[build]\n{settings}\n'
    for name in ("broken", "done"):
        (directory / f"{name}.pt").write_bytes(name.encode())
        text += f'[[model]]\nsource = "{name}.pt"\n'
    (directory / "fleet.toml").write_text(text)
    found = list(pending(cells_of(read_fleet(directory / "fleet.toml")), (), directory / "out"))
    (directory / "out").mkdir()
    (directory / "out" / "broken").write_text("a file where the directory of the model belongs")
    found[1].directory.mkdir(parents=True)
    (found[1].directory / RECORD).write_text(json.dumps(to_record(found[1])))
    return found


@contextmanager
def cluster() -> Iterator[str]:
    """The address of a Dask scheduler with two workers, which are threads of this process."""
    distributed = pytest.importorskip("distributed", reason="needs the extra dask")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, processes=False,
        protocol="tcp", memory_limit=None,
    ) as running:  # fmt: skip
        yield running.scheduler_address.replace("tcp://", "dask://")


def test_a_job_that_cannot_begin_leaves_the_others_alone(tmp_path: Path) -> None:
    outcomes = {one.job.model.name: one for one in run_here(jobs(tmp_path), workers=1, memory=None)}
    assert (outcomes["done"].failure, outcomes["done"].seconds) == (None, 0.0)
    assert "broken" in str(outcomes["broken"].failure)


def test_on_dask_as_well(tmp_path: Path) -> None:
    with cluster() as address:
        outcomes = {one.job.model.name: one for one in run_on_dask(jobs(tmp_path), address)}
        assert gpu_of_workers(address)
    assert (outcomes["done"].failure, outcomes["done"].seconds) == (None, 0.0)
    assert "broken" in str(outcomes["broken"].failure)


def test_workers_of_several_gpus_have_no_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "deployfold.sweep.cluster.gpu_here",
        lambda dask_worker: ("NVIDIA L4 8.9", "NVIDIA H100 9.0")[dask_worker.name],
    )
    with (
        cluster() as address,
        pytest.raises(UsageError, match="workers have different GPUs") as got,
    ):
        gpu_of_workers(address)
    assert "NVIDIA H100 9.0, NVIDIA L4 8.9" in got.value.message


def test_a_build_that_measures_runs_alone_on_its_machine(tmp_path: Path) -> None:
    """The rule covers builds of other sweeps, and other threads of a Dask worker."""
    _, measuring = jobs(tmp_path, "no-measure = false")
    ended = Event()
    thread = Thread(target=lambda: (run_job(measuring), ended.set()))
    with on_this_machine(alone=False, stopped=lambda: False):
        thread.start()
        assert not ended.wait(0.5), "another build runs"
    assert ended.wait(60)
    thread.join()


def test_builds_that_measure_nothing_run_beside_each_other(tmp_path: Path) -> None:
    _, quick = jobs(tmp_path)
    with on_this_machine(alone=False, stopped=lambda: False):
        (outcome,) = run_job(quick)
    assert (outcome.failure, outcome.seconds) == (None, 0.0)


def test_whoever_waits_can_be_stopped(tmp_path: Path) -> None:
    asked: list[bool] = []

    def stopped() -> bool:
        asked.append(True)
        return len(asked) > 2

    with (
        on_this_machine(alone=True, stopped=lambda: False),
        on_this_machine(alone=True, stopped=stopped),
    ):
        assert len(asked) == 3
