"""A sweep on a real Dask cluster of two worker processes. One worker is killed half-way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from deployfold.errors import UsageError
from deployfold.events import Event, StageProgress
from deployfold.sweep.fleet import read_fleet
from deployfold.sweep.run import sweep

distributed = pytest.importorskip("distributed", reason="needs the extra dask")
pytestmark = pytest.mark.slow

FLEET = """
precisions = ["fp32", "fp16"]
targets = ["l4"]
[build]
no-measure = true
input = ["1x3x16x16"]
"""


@pytest.fixture
def cluster() -> Iterator[object]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=None
    ) as running:
        yield running


def test_a_killed_worker_loses_nothing(tmp_path: Path, cluster: object) -> None:
    text = FLEET
    for index in range(3):
        net = nn.Sequential(nn.Conv2d(3, 4 + index, 3), nn.BatchNorm2d(4 + index), nn.ReLU())
        torch.save(net.eval(), tmp_path / f"net{index}.pt")
        text += f'[[model]]\nsource = "net{index}.pt"\n'
    (tmp_path / "fleet.toml").write_text(text)
    root = tmp_path / "out"
    killed: list[int] = []
    built: dict[Path, int] = {}

    def watch(event: Event) -> None:
        for record in root.glob("*/*/job.json"):
            assert built.setdefault(record, record.stat().st_mtime_ns) == record.stat().st_mtime_ns
        if isinstance(event, StageProgress) and not killed:
            worker = next(iter(cluster.workers.values()))  # type: ignore[attr-defined]
            killed.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)

    address = cluster.scheduler_address.replace("tcp://", "dask://")  # type: ignore[attr-defined]
    results = sweep(read_fleet(tmp_path / "fleet.toml"), root, emit=watch, scheduler=address)
    assert killed
    assert [result.state for result in results] == ["built"] * 6
    assert len({result.directory for result in results}) == 6
    assert len(list(root.glob("*/*/job.json"))) == 6
    time.sleep(2)  # the killed worker's build hears that it is alone
    assert not _builds_below(root)


class _Done(distributed.diagnostics.plugin.SchedulerPlugin):
    """The worker that finished each job, by the job's precision and key."""

    def __init__(self) -> None:
        self.where: dict[str, str] = {}

    def transition(self, key: str, start: str, finish: str, *args: object, **more: object) -> None:
        if finish == "memory":
            self.where[str(key)] = str(more["worker"])


def test_the_jobs_of_a_gpu_go_to_the_workers_that_name_it(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    torch.save(net.eval(), tmp_path / "net.pt")
    text = FLEET.replace('["l4"]', '["l4", "rtx5090"]') + '[[model]]\nsource = "net.pt"\n'
    (tmp_path / "fleet.toml").write_text(text)
    options = {"nthreads": 1, "memory_limit": None}
    nannies = {
        name: {"cls": distributed.Nanny, "options": {**options, "resources": resources}}
        for name, resources in {"gpu": {"l4": 1}, "cpu": {}}.items()
    }
    scheduler = {"cls": distributed.Scheduler, "options": {"port": 0, "dashboard": False}}
    with (
        distributed.SpecCluster(nannies, scheduler) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        workers = client.scheduler_info(n_workers=-1)["workers"]
        (with_gpu,) = [name for name, one in workers.items() if one["resources"]]
        done = _Done()
        cluster.scheduler.add_plugin(done)
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        fleet = read_fleet(tmp_path / "fleet.toml")
        results = sweep(fleet, tmp_path / "out", emit=lambda event: None, scheduler=address)
    assert [result.state for result in results] == ["built"] * 4
    of_gpu = {str(result.directory) for result in results if result.target == "l4"}
    others = {str(result.directory) for result in results if result.target != "l4"}
    assert len(of_gpu) == 2
    assert not of_gpu & others, "another worker builds for the other GPU"
    for directory in of_gpu:
        (worker,) = [where for key, where in done.where.items() if Path(directory).name in key]
        assert worker == with_gpu
    assert len(done.where) >= 4


def test_a_scheduler_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    torch.save(nn.Conv2d(3, 4, 3).eval(), tmp_path / "net.pt")
    (tmp_path / "fleet.toml").write_text(FLEET + '[[model]]\nsource = "net.pt"\n')
    fleet = read_fleet(tmp_path / "fleet.toml")
    with pytest.raises(UsageError, match="No Dask scheduler answers"):
        sweep(fleet, tmp_path / "out", emit=lambda event: None, scheduler="dask://127.0.0.1:9")
    with pytest.raises(UsageError, match="is not the address of a scheduler"):
        sweep(fleet, tmp_path / "out", emit=lambda event: None, scheduler="slurm://here")


def _builds_below(root: Path) -> list[str]:
    if sys.platform != "linux":
        return []
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [
        line for line in listed.stdout.splitlines() if "sweep.child" in line and str(root) in line
    ]
