"""Accuracy over several real inputs, and the files they are read from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deployfold.data.feeds import load_feeds, load_labels
from deployfold.errors import MeasureError, UsageError
from deployfold.measuring.feeds import compare_over
from deployfold.runtimes.torch_and_onnxruntime import EagerRunner, TorchScriptRunner


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
    found = compare_over(runners, feeds(), labels=[1, 1, 2, 0])
    base, row = found["base"], found["row"]
    assert not isinstance(base, str)
    assert not isinstance(row, str)
    assert (base.accuracy, base.max_abs_diff, base.samples) == (1.0, 0.0, 4)
    assert (row.max_abs_diff, row.top1_agreement, row.accuracy) == (1.5, 0.75, 0.75)
    first_only = compare_over(
        {"base": EagerRunner(Shift(0)), "row": EagerRunner(Shift(1.5))}, feeds()[1:]
    )
    assert "base" not in first_only, "without labels it has nothing to say of itself"
    assert first_only["row"].top1_agreement == 1.0  # type: ignore[union-attr]


def test_a_row_that_fails_costs_that_row(tmp_path: Path) -> None:
    runners = {
        "base": EagerRunner(Shift(0)),
        "gone": TorchScriptRunner(tmp_path / "gone.ts.pt"),
        "row": EagerRunner(Shift(0)),
    }
    found = compare_over(runners, feeds())
    assert "gone.ts.pt cannot be loaded" in str(found["gone"])
    assert found["row"].max_abs_diff == 0.0  # type: ignore[union-attr]
    lost = compare_over(
        {"base": TorchScriptRunner(tmp_path / "x.ts.pt"), "row": EagerRunner(Shift(0))}, feeds()
    )
    assert "the baseline failed" in str(lost["row"])


def test_labels_must_fit_the_samples() -> None:
    runners = {"base": EagerRunner(Shift(0))}
    with pytest.raises(MeasureError, match="3 labels for 4 samples"):
        compare_over(runners, feeds(), labels=[0, 1, 2])
    with pytest.raises(MeasureError, match="nothing to compare"):
        compare_over(runners, [])


def test_files_are_cut_into_whole_feeds(tmp_path: Path) -> None:
    images, scale = np.arange(10.0).reshape(5, 2), np.arange(5).reshape(5, 1)
    np.save(tmp_path / "x.npy", images)
    one = load_feeds(tmp_path / "x.npy", ["input"], [(2, 2)], ["float32"])
    assert [tuple(feed[0].shape) for feed in one] == [(2, 2), (2, 2)]
    assert one[1][0].dtype == torch.float32
    np.testing.assert_array_equal(one[1][0].numpy(), images[2:4])
    np.savez(tmp_path / "x.npz", image=images, scale=scale)
    two = load_feeds(tmp_path / "x.npz", ["scale", "image"], [(5, 1), (5, 2)], ["int64"] * 2)
    assert [tensor.shape[1] for tensor in two[0]] == [1, 2]


def test_unusable_data_is_a_usage_error(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5, 2)))
    np.savez(tmp_path / "x.npz", a=np.zeros((5, 2)), b=np.zeros((4, 2)))
    np.save(tmp_path / "o.npy", np.array([{"a": 1}]), allow_pickle=True)
    (tmp_path / "garbage.npy").write_bytes(b"garbage")
    for name, names, shapes, said in (
        ("x.npy", ["a"], [(1, 3)], "have the shape 2, and the model takes 1x3"),
        ("x.npy", ["a"], [(8, 2)], "holds 5 samples, and one inference takes 8"),
        ("x.npy", ["a", "b"], [(1, 2)] * 2, "is one array"),
        ("x.npz", ["a", "c"], [(1, 2)] * 2, "no array 'c'"),
        ("x.npz", ["a", "b"], [(1, 2)] * 2, "different numbers"),
        ("o.npy", ["a"], [(1,)], "no NumPy file of numbers"),
        ("garbage.npy", ["a"], [(1,)], "no NumPy file of numbers"),
        ("none.npy", ["a"], [(1,)], "Cannot read"),
    ):
        with pytest.raises(UsageError, match=said):
            load_feeds(tmp_path / name, names, shapes, ["float32"] * len(names))


def test_labels_are_read_from_text_and_npy(tmp_path: Path) -> None:
    (tmp_path / "y.txt").write_text("3\n1\n\n2\n")
    np.save(tmp_path / "y.npy", np.array([3, 1, 2]))
    np.save(tmp_path / "f.npy", np.array([0.5]))
    assert load_labels(tmp_path / "y.txt") == load_labels(tmp_path / "y.npy") == (3, 1, 2)
    (tmp_path / "bad.txt").write_text("cat\n")
    for name, said in (("bad.txt", "class indices"), ("f.npy", "integers"), ("no.txt", "read")):
        with pytest.raises(UsageError, match=said):
            load_labels(tmp_path / name)
