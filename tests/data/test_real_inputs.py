"""All samples of a file, in order, cut into feeds; and their labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deployfold.config.inputs import InputSpec
from deployfold.config.real_data import CalibrationSpec
from deployfold.data.labels import read_labels
from deployfold.data.real_inputs import RealInputs, load_samples
from deployfold.data.sources import inputs_in
from deployfold.errors import UsageError


def every(path: Path, *texts: str, labels: Path | None = None) -> RealInputs:
    spec = CalibrationSpec(str(path), labels=labels)
    return load_samples(spec, InputSpec.parse(texts), arch=None, every=True)


def test_files_are_cut_into_whole_feeds(tmp_path: Path) -> None:
    images, scale = np.arange(10.0).reshape(5, 2), np.arange(5).reshape(5, 1)
    np.save(tmp_path / "x.npy", images)
    one = every(tmp_path / "x.npy", "input=2x2").tensors(InputSpec.parse(["input=2x2"]))
    assert [tuple(feed[0].shape) for feed in one] == [(2, 2), (2, 2)]
    assert one[1][0].dtype == torch.float32
    np.testing.assert_array_equal(one[1][0].numpy(), images[2:4])
    np.savez(tmp_path / "x.npz", image=images, scale=scale)
    texts = ("scale=5x1:int64", "image=5x2")
    two = every(tmp_path / "x.npz", *texts).tensors(InputSpec.parse(texts))
    assert [tensor.shape[1] for tensor in two[0]] == [1, 2]


def test_arrays_that_no_axis_of_samples_joins_are_one_inference(tmp_path: Path) -> None:
    path, texts = tmp_path / "call.npz", ("x=1x4", "state=2x1x3")
    arrays = {"x": np.ones((1, 4), np.float32), "state": np.ones((2, 1, 3), np.float32)}
    np.savez(path, **arrays)
    ((x, state),) = every(path, *texts).tensors(InputSpec.parse(texts))
    assert (x.shape, state.shape) == ((1, 4), (2, 1, 3))
    assert inputs_in(str(path)) == replace(InputSpec.parse(texts), origin="call.npz")
    np.savez(path, **{name: np.stack([one, 2 * one]) for name, one in arrays.items()})
    assert len(every(path, *texts).feeds) == 2
    np.savez(path, x=np.ones((1, 4), np.float32), rate=np.array(16000))
    shown = inputs_in(str(path))
    assert shown is not None
    assert [(one.name, one.shape) for one in shown.tensors] == [("x", (1, 4)), ("rate", ())]


def test_equal_samples_stay_and_labels_keep_their_order(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[3.0], [3.0], [1.0], [2.0]]))
    (tmp_path / "y.txt").write_text("7\n8\n9\n6\n")
    found = every(tmp_path / "x.npy", "1x1", labels=tmp_path / "y.txt")
    assert [feed["input"].item() for feed in found.feeds] == [3, 3, 1, 2]
    assert found.labels == (7, 8, 9, 6)


def test_bfloat16_inputs_get_bfloat16_tensors(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    inputs = InputSpec.parse(["1x3:bfloat16"])
    ((tensor,), _) = every(tmp_path / "x.npy", "1x3:bfloat16").tensors(inputs)
    assert tensor.dtype == torch.bfloat16


def test_unusable_data_is_a_usage_error(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5, 2)))
    np.savez(tmp_path / "x.npz", a=np.zeros((5, 2)), b=np.zeros((4, 2)))
    np.save(tmp_path / "o.npy", np.array([{"a": 1}]), allow_pickle=True)
    (tmp_path / "garbage.npy").write_bytes(b"garbage")
    for name, texts, message in (
        ("x.npy", ["a=1x3"], "has the shape 5x2, but must have samplesx3"),
        ("x.npy", ["a=8x2"], "holds 5 samples, but one inference takes 8"),
        ("x.npy", ["a=1x2", "b=1x2"], "the model's inputs are a, b"),
        ("x.npz", ["a=1x2", "c=1x2"], "the model's inputs are a, c"),
        ("x.npz", ["a=1x2", "b=1x2"], "different numbers"),
        ("o.npy", ["a=1"], "pickled Python objects"),
        ("garbage.npy", ["a=1"], "not an array file"),
        ("none.npy", ["a=1"], "The input data .* does not exist"),
    ):
        with pytest.raises(UsageError, match=message):
            every(tmp_path / name, *texts)


def test_labels_are_read_from_text_and_npy(tmp_path: Path) -> None:
    (tmp_path / "y.txt").write_text("3\n1\n\n2\n")
    np.save(tmp_path / "y.npy", np.array([3, 1, 2]))
    np.save(tmp_path / "f.npy", np.array([0.5]))
    assert read_labels(tmp_path / "y.txt") == read_labels(tmp_path / "y.npy") == [3, 1, 2]
    (tmp_path / "bad.txt").write_text("cat\n")
    for name, message in (("bad.txt", "not two"), ("f.npy", "integers"), ("no.txt", "read")):
        with pytest.raises(UsageError, match=message):
            read_labels(tmp_path / name)
