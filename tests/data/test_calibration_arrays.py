from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from calibration_toys import ONE, TWO, expected, load, refusal, rows, samples
from hypothesis import given
from hypothesis import strategies as st

from deployfold.config.inputs import InputSpec
from deployfold.data import arrays as calibration_arrays
from deployfold.data.arrays import open_arrays
from deployfold.errors import UsageError


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed", "fortran", "fortran-npz", "big"])
def test_numpy_files(tmp_path: Path, kind: str) -> None:
    array, path = samples(), tmp_path / ("a.npy" if kind in ("npy", "fortran", "big") else "a.npz")
    if kind == "compressed":
        np.savez_compressed(path, anything=np.asfortranarray(array))
    elif path.suffix == ".npz":
        np.savez(path, anything=np.asfortranarray(array) if "fortran" in kind else array)
    else:
        np.save(path, np.asfortranarray(array) if kind == "fortran" else array.astype(">f8"))
    data = load(path, ONE)
    assert rows(data) == expected(array)
    feed = data.calibration[0]["x"]
    assert (feed.shape, feed.dtype) == ((1, 2, 3), np.float32)
    assert data.origin == f"8 of 10 samples of {path.name}, 2 others held back"
    if kind != "compressed":
        assert all(isinstance(item, np.memmap) for item in open_arrays(path).values())


def test_named_arrays_for_several_inputs(tmp_path: Path) -> None:
    ids = np.arange(24).reshape(6, 4)
    np.savez(tmp_path / "a.npz", mask=ids / 2, ids=ids.astype(np.int32))
    data = load(tmp_path / "a.npz", TWO)
    for feed in data.calibration:
        assert list(feed) == ["ids", "mask"]
        assert (feed["ids"].dtype, feed["mask"].dtype) == (np.int64, np.float32)
        np.testing.assert_array_equal(feed["ids"], feed["mask"] * 2)


def test_feeds_have_the_models_batch(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", samples(11))
    data = load(tmp_path / "a.npy", ONE.with_batch(2), labels=integers(tmp_path, range(11)))
    assert {feed["x"].shape for feed in (*data.calibration, *data.held_back)} == {(2, 2, 3)}
    assert (len(data.calibration), len(data.held_back)) == (4, 1)
    assert data.labels == tuple(int(row[0, 0] / 6) for row in data.held_back[0]["x"])
    assert "1 samples do not fill a batch and were left out." in data.notes
    assert "do not make two batches of 8" in refusal(tmp_path / "a.npy", ONE.with_batch(8))


def integers(folder: Path, values: range) -> Path:
    (folder / "labels.txt").write_text("\n".join(map(str, values)))
    return folder / "labels.txt"


def test_inputs_without_a_common_batch_are_fed_as_they_are(tmp_path: Path) -> None:
    inputs = InputSpec.parse(["a=4x3", "b=1x5"])
    np.savez(tmp_path / "a.npz", a=np.random.rand(3, 4, 3), b=np.random.rand(3, 1, 5))
    feed = load(tmp_path / "a.npz", inputs).calibration[0]
    assert (feed["a"].shape, feed["b"].shape) == ((4, 3), (1, 5))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 3, 2), "f4"), "has the shape 4x3x2, but must have samplesx2x3."),
        (np.float32(3), "has the shape one number, but"),
        (np.zeros((4, 2, 3), "u1"), "holds uint8, but the input 'x' takes float32."),
        (np.zeros((4, 2, 3), "c8"), "holds complex64"),
        (np.zeros((4, 2, 3), "S3"), "holds |S3"),
        (np.zeros((0, 2, 3), "f4"), "There are no usable samples among 0 samples of a.npy"),
        (np.zeros((1, 2, 3), "f4"), "There is one usable sample among 1 samples of a.npy"),
        (np.zeros((9, 2, 3), "f4"), "but calibration needs at least two: all samples are equal."),
        (np.full((4, 2, 3), 1e300), "holds values beyond what float32 can represent."),
        (np.array([[{}]]), "holds pickled Python objects, which could run code."),
    ],
    ids=str,
)
def test_arrays_that_do_not_fit(tmp_path: Path, array: np.ndarray, words: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    assert words in refusal(tmp_path / "a.npy", ONE)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_names_the_sample(tmp_path: Path, bad: float) -> None:
    array = samples(5)
    array[3, 1, 2] = bad
    np.savez(tmp_path / "a.npz", array)
    message = refusal(tmp_path / "a.npz", ONE)
    assert message == f"Sample 3 of {tmp_path / 'a.npz'} holds NaN or infinite values."


def test_integers_and_booleans_keep_their_kind(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(12).reshape(3, 4) * 100)
    assert "beyond what uint8" in refusal(tmp_path / "a.npy", InputSpec.parse(["1x4:uint8"]))
    assert "holds int64" in refusal(tmp_path / "a.npy", InputSpec.parse(["1x4:bool"]))
    np.save(tmp_path / "a.npy", np.arange(12, dtype=np.float32).reshape(3, 4))
    assert "takes int64" in refusal(tmp_path / "a.npy", InputSpec.parse(["1x4:int64"]))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"ids": 4}, "holds ids, but the model's inputs are ids, mask."),
        ({"a": 4, "b": 4}, "holds a, b, but the model's inputs are ids, mask."),
        ({"ids": 4, "mask": 4, "y": 4}, "holds ids, mask, y"),
        ({"ids": 4, "mask": 5}, "holds different numbers of samples: ids 4, mask 5."),
    ],
)
def test_names_and_numbers_must_match(tmp_path: Path, arrays: dict[str, int], words: str) -> None:
    made = {
        name: np.zeros((count, 4), "i8" if name == "ids" else "f4")
        for name, count in arrays.items()
    }
    np.savez(tmp_path / "a.npz", **made)  # type: ignore[arg-type]
    assert words in refusal(tmp_path / "a.npz", TWO)


def test_zip_bombs_and_pickles_in_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_arrays, "_SMALL", 1 << 22)  # to write less here
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([{}], dtype=object))
    assert "'x' in" in refusal(path, ONE)
    assert "pickled Python objects" in refusal(path, ONE)
    header = np.lib.format.header_data_from_array_1_0(samples(1)) | {"shape": (1 << 18, 2, 3)}
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as entry,
    ):
        np.lib.format.write_array_header_1_0(entry, header)  # type: ignore[arg-type]
        entry.write(bytes(24 << 18))
    assert "like a decompression bomb" in refusal(path, ONE)


def test_masks_may_shrink_a_lot(tmp_path: Path) -> None:
    array = np.zeros((300, 2, 3), "f4")
    array[:, 0, 0] = np.arange(300)
    big = np.broadcast_to(array[:, :, :, None], (300, 2, 3, 1000))
    np.savez_compressed(tmp_path / "a.npz", big)
    assert (tmp_path / "a.npz").stat().st_size * 50 < big.size * 4
    assert load(tmp_path / "a.npz", InputSpec.parse(["1x2x3x1000"])).calibrated


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"dear diary",
        b"PK\x03\x04 no zip",
        b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2, 3), }",
        b"\x93NUMPY\x03\x00\x76\x00\x00\x00{}",
    ],
)
def test_files_that_are_no_arrays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    assert "is not an array file that can be read" in refusal(tmp_path / "a.npy", ONE)


@pytest.mark.parametrize("save", [np.save, np.savez_compressed])
def test_truncated_arrays(tmp_path: Path, save: Callable[..., None]) -> None:
    path = tmp_path / ("a.npy" if save is np.save else "a.npz")
    save(path, samples())
    if save is np.save:
        path.write_bytes(path.read_bytes()[:-4])
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            np.save(path.with_suffix(".npy"), samples())
            archive.writestr("x.npy", path.with_suffix(".npy").read_bytes()[:-4])
    assert refusal(path, ONE).endswith(
        "is not an array file that can be read: the array is truncated."
    )


@given(st.data())
def test_a_damaged_array_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "a.npz"
    save = np.savez_compressed if data.draw(st.booleans()) else np.savez
    save(path, x=samples(3))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        arrays = open_arrays(path)
    except UsageError as error:
        arrays = {error.message: np.empty(0)}
    assert all(array.size * array.itemsize <= 1 << 20 for array in arrays.values())
