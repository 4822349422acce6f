"""Export as a library leaves the process unchanged, and works in any thread."""

from __future__ import annotations

import inspect
import logging
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from cli_runs import fails, run
from export_toys import export_torchscript
from torch import Tensor, nn

import deployfold
from deployfold.exporting.baked import noting_baked

INPUTS = (torch.ones(2, 3),)


def state() -> object:
    streams = id(sys.stdout), id(sys.stderr)
    return streams, logging.root.manager.disable, list(sys.path), torch.get_default_dtype()


class Watching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(3, 3), []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(state())
        return self.layer(x).relu()


@pytest.fixture
def library_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that no command has claimed; another test's command may have claimed this one."""
    monkeypatch.setattr("deployfold.util.quiet._OWN", threading.Event())


@pytest.mark.usefixtures("library_process")
def test_the_process_stays_as_it_was_while_a_model_is_exported(tmp_path: Path) -> None:
    module, before = Watching().eval(), state()
    export_torchscript(module, INPUTS, tmp_path / "model.ts.pt")
    assert module.seen
    assert all(item == before for item in module.seen)
    assert state() == before


def test_models_are_exported_from_several_threads(tmp_path: Path) -> None:
    def export(number: int) -> list[float]:
        module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, number + 2)).eval()
        files = deployfold.export(module, INPUTS, tmp_path / str(number))
        return [file.max_abs_diff for file in files.values()]

    with ThreadPoolExecutor(3) as pool:
        assert all(max(found) < 1e-5 for found in pool.map(export, range(3)))


class Reading(nn.Module):
    """Reads numbers of its tensors in every way that the tracer warns of."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = x + len(x)
        for row in x:
            x = x + row
        return x + int(x[0, 0])


def test_values_that_the_code_reads_are_noted_with_their_line() -> None:
    with noting_baked() as baked:
        torch.jit.trace(Reading(), INPUTS, check_trace=False)
    first = inspect.getsourcelines(Reading)[1]
    expected = [(4, "a branch"), (5, "a length"), (6, "the length of a loop"), (8, "a number")]
    assert baked == [f"{what} at {Path(__file__).name}:{first + line}" for line, what in expected]


def test_warnings_of_others_are_shown_meanwhile() -> None:
    shown, filters = warnings.showwarning, list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with noting_baked() as baked, ThreadPoolExecutor(1) as pool:
            warnings.warn("mine", stacklevel=1)
            pool.submit(warnings.warn, "another's").result()
            pool.submit(warnings.warn, "traced elsewhere", torch.jit.TracerWarning).result()
    assert [str(item.message) for item in caught] == ["mine", "another's", "traced elsewhere"]
    assert not baked
    assert warnings.showwarning is shown
    assert warnings.filters == filters


def test_a_command_keeps_what_torch_dumps_to_itself(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "import torch\n\n\nclass Inverse(torch.nn.Module):\n"
        "    def forward(self, x):\n        return torch.linalg.eigvalsh(x)\n"
    )
    done = run("export", "nets:Inverse", "--input", "3x3", "-o", "out", cwd=tmp_path)
    part = fails(done, 5, "Neither ONNX exporter takes this model.")
    assert "graph(" not in part, "torch dumps its graph from C++"
