"""The state of the machine during a measurement, read from files like the kernel's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deployfold.measuring import machine_load
from deployfold.measuring.machine_load import Contention, CpuWatch
from deployfold.reporting.conditions import fitting_threads

TICKS = 100


def stat(path: Path, *busy: int) -> Path:
    """A /proc/stat in which CPU i worked ``busy[i]`` ticks, half of them stolen."""
    lines = ["cpu  0 0 0 0 0 0 0 0 0 0"]
    for number, ticks in enumerate(busy):
        user, idle, waiting, stolen = ticks - ticks // 2, 3 * ticks, 7 * ticks, ticks // 2
        lines.append(f"cpu{number} {user} 0 0 {idle} {waiting} 0 0 {stolen} 5 0")
    path.write_text("\n".join([*lines, "intr 1 2 3"]) + "\n")
    return path


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_load, "allowed_cpus", lambda: (0, 1))
    monkeypatch.setattr(os, "sysconf", lambda name: TICKS)


def watch(path: Path, seconds: float, own: float) -> CpuWatch:
    walls, owns = iter([0.0, seconds]), iter([1.0, 1.0 + own])
    return CpuWatch(path, wall=lambda: next(walls), own=lambda: next(owns))


def test_other_programs_time_is_the_machines_less_our_own(tmp_path: Path) -> None:
    path = stat(tmp_path / "stat", 100, 100, 5000)  # the third CPU is not for us
    one = watch(path, seconds=2.0, own=1.5)
    one.start()
    stat(path, 300, 250, 9000)  # 3.5 s of CPU in 2 s
    assert one.stop() == Contention(others=1.0, cpus=2)


def test_a_short_time_or_a_hidden_file_says_nothing(tmp_path: Path) -> None:
    path = stat(tmp_path / "stat", 100, 100)
    short = watch(path, seconds=0.4, own=0.0)
    short.start()
    assert short.stop() is None
    for content in ("", "cpu0 garbage", "cpu0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0"):
        path.write_text(content)
        hidden = watch(path, seconds=2.0, own=0.0)
        hidden.start()
        assert hidden.stop() is None
    assert watch(tmp_path / "none", 2.0, 0.0).stop() is None


def test_a_rounding_of_ticks_is_not_less_than_nothing(tmp_path: Path) -> None:
    path = stat(tmp_path / "stat", 100, 100)
    one = watch(path, seconds=1.0, own=0.6)
    one.start()
    stat(path, 150, 100)
    contention = one.stop()
    assert contention is not None
    assert contention.others == 0.0


@pytest.mark.parametrize(("others", "fit"), [(0.0, 2), (0.2, 2), (0.3, 1), (1.0, 1), (2.0, 1)])
def test_threads_that_fit_beside_others(others: float, fit: int) -> None:
    assert fitting_threads(2, others) == fit


def test_the_governor_of_every_cpu(tmp_path: Path) -> None:
    assert machine_load.governor(tmp_path) is None
    for cpu, name in enumerate(("powersave", "performance", "schedutil")):
        folder = tmp_path / f"cpu{cpu}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{name}\n")
    assert machine_load.governor(tmp_path) == "performance, powersave"


@pytest.mark.skipif(not machine_load.PROC_STAT.exists(), reason="needs Linux's /proc/stat")
def test_a_busy_process_beside_us_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        one = CpuWatch()
        one.start()
        if one.stop() is None and one._before is None:
            pytest.skip("/proc/stat is hidden here")
        one.start()
        time.sleep(1.0)
        contention = one.stop()
    finally:
        busy.kill()
        busy.wait()
    assert contention is not None
    assert contention.others > 0.3
