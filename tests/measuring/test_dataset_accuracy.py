"""Accuracy over several real inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from deployfold.errors import MeasureError
from deployfold.measuring.dataset_accuracy import compare_over
from deployfold.runtimes.eager import EagerRunner
from deployfold.runtimes.torchscript import TorchScriptRunner


class Shift(nn.Module):
    """Adds ``by`` to the first output of inputs whose first value is positive."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.by * (x[:, :1] > 0) * torch.eye(x.shape[1])[0]


def feeds() -> list[tuple[torch.Tensor, ...]]:
    x = torch.tensor([[-1.0, 2, 0], [1, 2, 0], [-1, 0, 3], [3, 0, 1]])
    return [(x[:2],), (x[2:],)]


def test_the_worst_of_all_feeds_counts_and_agreement_is_over_all_samples() -> None:
    runners = {"base": EagerRunner(Shift(0)), "row": EagerRunner(Shift(1.5))}
    found = compare_over(runners, feeds(), labels=[1, 1, 2, 0]).accuracy
    base, row = found["base"], found["row"]
    assert not isinstance(base, str)
    assert not isinstance(row, str)
    assert (base.accuracy, base.max_abs_diff, base.samples) == (1.0, 0.0, 4)
    assert (row.max_abs_diff, row.top1_agreement, row.accuracy) == (1.5, 0.75, 0.75)
    first_only = compare_over(
        {"base": EagerRunner(Shift(0)), "row": EagerRunner(Shift(1.5))}, feeds()[1:]
    ).accuracy
    assert "base" not in first_only, "without labels it has nothing to say of itself"
    assert first_only["row"].top1_agreement == 1.0  # type: ignore[union-attr]


def test_a_row_that_fails_costs_that_row(tmp_path: Path) -> None:
    runners = {
        "base": EagerRunner(Shift(0)),
        "gone": TorchScriptRunner(tmp_path / "gone.ts.pt"),
        "row": EagerRunner(Shift(0)),
    }
    found = compare_over(runners, feeds()).accuracy
    assert "gone.ts.pt cannot be loaded" in str(found["gone"])
    assert found["row"].max_abs_diff == 0.0  # type: ignore[union-attr]
    lost = compare_over(
        {"base": TorchScriptRunner(tmp_path / "x.ts.pt"), "row": EagerRunner(Shift(0))}, feeds()
    ).accuracy
    assert "the baseline failed" in str(lost["row"])


def test_labels_must_fit_the_samples() -> None:
    runners = {"base": EagerRunner(Shift(0))}
    with pytest.raises(MeasureError, match="3 labels for 4 samples"):
        compare_over(runners, feeds(), labels=[0, 1, 2])
    with pytest.raises(MeasureError, match="nothing to compare"):
        compare_over(runners, [])
