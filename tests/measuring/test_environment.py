"""The machine's description, and how many threads it deserves."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from deployfold.measuring import environment
from deployfold.measuring.latency import torch_threads


def test_the_description_names_the_machine_and_the_versions() -> None:
    found = environment.describe(3)
    assert found.threads == 3
    assert found.cpu
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert found.packages["torch"] == metadata.version("torch")
    assert "deployfold" in found.packages
    assert all(found.packages.values())
    assert (found.gpu is None) == (not torch.cuda.is_available())
    assert environment.describe().threads == torch.get_num_threads()


def test_threads_are_physical_cores_that_the_process_may_use() -> None:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert 1 <= environment.default_threads() <= environment.physical_cores() <= (allowed or 1)


@pytest.mark.parametrize(
    ("text", "quota"),
    [("max 100000", None), ("200000 100000", 2), ("50000 100000", 1), ("garbage", None)],
)
def test_a_containers_cpu_quota(tmp_path: Path, text: str, quota: int | None) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(text)
    assert environment._quota(path) == quota
    assert environment._quota(tmp_path / "none") is None


def test_the_cpu_name_of_cpuinfo(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel\t\t: 1\nmodel name\t: Some CPU @ 3: GHz\n")
    assert environment._cpuinfo(path, "model name") == "Some CPU @ 3: GHz"
    assert environment._cpuinfo(path, "Hardware") is None


def test_threads_are_put_back_even_after_an_error() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1) as count:
        assert count == torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1):
        _ = 1 / 0
    assert torch.get_num_threads() == before
    with torch_threads(None) as count:
        assert count == before
