from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from calibration_toys import RGB, folder, load, picture, refusal
from torchvision import models

from deployfold.config.inputs import InputSpec
from deployfold.config.real_data import CalibrationSpec, PreprocessSpec
from deployfold.data.calibration import UNCALIBRATED, CalibrationData, load_calibration
from deployfold.data.draw import held_back_feeds
from deployfold.errors import UsageError


def feeds(data: CalibrationData) -> list[bytes]:
    return [feed["image"].tobytes() for feed in (*data.calibration, *data.held_back)]


def test_a_folder_of_images(tmp_path: Path) -> None:
    source = folder(tmp_path / "pictures", 12)
    data = load(source, samples=8)
    assert data.calibrated
    assert data.origin == "6 of 12 images in pictures/, 2 others held back"
    assert (len(data.calibration), len(data.held_back)) == (6, 2)
    assert data.labels is None
    assert data.skipped == ()
    for feed in (*data.calibration, *data.held_back):
        assert list(feed) == ["image"]
        assert (feed["image"].shape, feed["image"].dtype) == ((1, 3, 32, 32), np.float32)
        assert feed["image"].flags.c_contiguous
    assert len(set(feeds(data))) == 8


def test_images_get_the_architectures_preprocessing(tmp_path: Path) -> None:
    source = folder(tmp_path, 4)
    data = load(source, InputSpec.parse(["1x3x224x224:float16"]), arch="torchvision:resnet18")
    transforms = models.ResNet18_Weights.DEFAULT.transforms()
    wanted = {transforms(picture(index)).numpy().astype(np.float16).tobytes() for index in range(4)}
    assert {feed["input"].tobytes() for feed in (*data.calibration, *data.held_back)} == wanted
    assert "torchvision's weights of resnet18" in data.notes[0]


def test_nhwc_inputs_in_batches(tmp_path: Path) -> None:
    data = load(folder(tmp_path, 9), InputSpec.parse(["4x32x32x3"]))
    assert [feed["input"].shape for feed in data.calibration] == [(4, 32, 32, 3)]
    assert len(data.held_back) == 1


def test_the_seed_decides_the_choice(tmp_path: Path) -> None:
    folder(tmp_path, 12)
    first, again, other = (load(tmp_path, samples=6, seed=seed) for seed in (1, 1, 2))
    assert feeds(first) == feeds(again)
    assert first.digest == again.digest
    assert set(feeds(first)) != set(feeds(other))
    assert first.digest != other.digest


def test_the_digest_tells_apart_what_matters(tmp_path: Path) -> None:
    folder(tmp_path, 6)
    (tmp_path / "labels.txt").write_text("0\n1\n2\n3\n4\n5\n")
    plain = load(tmp_path)
    assert len(plain.digest) == 64
    others = [
        load(tmp_path, held_back=0.5),
        load(tmp_path, labels=tmp_path / "labels.txt"),
        load(tmp_path, preprocess=PreprocessSpec(mean=(0.5,))),
        load(tmp_path, InputSpec.parse(["picture=1x3x32x32"])),
        load(tmp_path, RGB.with_batch(3)),
    ]
    picture(99).save(tmp_path / "03.png")
    others.append(load(tmp_path))
    assert len({plain.digest, *(data.digest for data in others)}) == 7


def test_fewer_samples_than_requested_are_noted(tmp_path: Path) -> None:
    data = load(folder(tmp_path, 3), samples=5)
    assert data.notes[-1] == "5 calibration samples were requested, but there are 3."
    assert not any("requested, but" in note for note in load(tmp_path, samples=3).notes)


@pytest.mark.parametrize(
    ("samples", "batch", "share", "expected"),
    [
        (256, 1, 0.25, (64, 192)),
        (256, 1, 0.9, (26, 230)),
        (256, 8, 0.25, (8, 24)),
        (256, 128, 0.25, (1, 1)),
        (2, 1, 0.01, (1, 1)),
        (2, 1, 0.99, (1, 1)),
        (7, 1, 0.5, (3, 4)),
        (17, 8, 0.25, (1, 1)),
        (64, 8, 0.25, (6, 2)),
    ],
)
def test_both_shares_are_never_empty(
    samples: int, batch: int, share: float, expected: tuple[int, int]
) -> None:
    assert held_back_feeds(samples, batch, share) == expected


def test_random_is_seeded_and_says_so() -> None:
    data = load("random", samples=8)
    assert data.origin == UNCALIBRATED == "uncalibrated (random inputs)"
    assert not data.calibrated
    assert (len(data.calibration), len(data.held_back)) == (6, 2)
    assert len(set(feeds(data))) == 8
    assert "random inputs" in data.notes[0]
    values = np.concatenate([feed["image"].ravel() for feed in data.calibration])
    assert values.mean() == pytest.approx(0, abs=0.05)
    assert values.std() == pytest.approx(1, abs=0.05)
    spec = CalibrationSpec(source="random", samples=8)
    same = load_calibration(spec, RGB, arch=None, seed=0)
    other = load_calibration(spec, RGB, arch=None, seed=1)
    assert same.digest == data.digest != other.digest


def test_random_fills_two_batches_and_has_no_labels() -> None:
    data = load("random", RGB.with_batch(4), samples=2)
    assert [feed["image"].shape[0] for feed in (*data.calibration, *data.held_back)] == [4, 4]
    assert "no labels" in refusal("random", labels=Path("labels.csv"))


def test_labels_follow_the_held_back_images(tmp_path: Path) -> None:
    source = folder(tmp_path / "pictures", 10)
    table = tmp_path / "labels.csv"
    table.write_text("filename,label\n" + "".join(f"{i:02d}.png,{i + 50}\n" for i in range(10)))
    data = load(source, labels=table, held_back=0.4)
    by_content = {load_one(source, index): index + 50 for index in range(10)}
    assert data.labels is not None
    assert len(data.labels) == 4
    wanted = [by_content[feed["image"].tobytes()] for feed in data.held_back]
    assert list(data.labels) == wanted


def load_one(source: Path, index: int) -> bytes:
    from deployfold.data.preprocess.resolve import resolve_preprocess

    steps = resolve_preprocess(PreprocessSpec(), RGB, None)
    return steps.apply(picture(index)).tobytes()


def test_sources_that_are_none(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"The calibration data {tmp_path / 'none'} does not exist."
    picture(1).save(tmp_path / "one.jpg")
    assert "is not a supported kind of calibration data" in refusal(tmp_path / "one.jpg")
    assert "is neither a file nor a folder" in refusal("/dev/null")
    with pytest.raises(UsageError, match="bfloat16 inputs"):
        load(tmp_path, InputSpec.parse(["1x3x8x8:bfloat16"]))
