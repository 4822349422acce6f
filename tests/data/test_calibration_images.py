from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from calibration_toys import RGB, folder, load, picture, refusal
from PIL import Image

from deployfold.config.inputs import InputSpec
from deployfold.data.images import find_images, read_image
from deployfold.data.samples import Unreadable


def reread(image: Image.Image, path: Path, mode: str = "RGB", **options: object) -> np.ndarray:
    image.save(path, **options)
    return np.asarray(read_image(path, path.name, mode))


def test_images_are_found_by_suffix_and_by_content(tmp_path: Path) -> None:
    folder(tmp_path / "b" / "c", 1)
    folder(tmp_path, 2, suffix="JPG")
    for name, kind in {"a": "WEBP", "z.dat": "GIF", "t": "TIFF", "m": "BMP", "p.x": "PNG"}.items():
        picture(9).save(tmp_path / name, kind)
    for name in ("labels.csv", "notes.txt", ".hidden.png", "empty"):
        (tmp_path / name).write_text("00.JPG,1" if name != "empty" else "")
    (tmp_path / ".thumbs").mkdir()
    picture(1).save(tmp_path / ".thumbs" / "x.png")
    found = find_images(tmp_path)
    assert found == ("00.JPG", "01.JPG", "a", "b/c/00.png", "m", "p.x", "t", "z.dat")


def test_links_are_followed_once_and_never_in_circles(tmp_path: Path) -> None:
    outside = folder(tmp_path / "outside", 2)
    inside = folder(tmp_path / "inside" / "own", 1).parent
    (inside / "elsewhere").symlink_to(outside, target_is_directory=True)
    (inside / "again").symlink_to(outside, target_is_directory=True)
    (inside / "own" / "up").symlink_to(inside, target_is_directory=True)
    (inside / "z_own").symlink_to(inside / "own", target_is_directory=True)
    (inside / "lost.png").symlink_to(tmp_path / "no such file")
    os.mkfifo(inside / "pipe.png")
    found = find_images(inside)
    assert "own/00.png" in found  # by its own name, not by the link's
    assert "lost.png" in found
    assert len(found) == 4


def test_the_content_decides_whatever_the_suffix(tmp_path: Path) -> None:
    picture(5).save(tmp_path / "a.jpg", "PNG")
    actual = np.asarray(read_image(tmp_path / "a.jpg", "a.jpg", "RGB"))
    np.testing.assert_array_equal(actual, np.asarray(picture(5)))


def test_exif_orientation(tmp_path: Path) -> None:
    image = picture(6, (40, 24))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    actual = reread(image, tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(actual, np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    original = picture(7)
    image = original.convert(mode)
    actual = reread(image, tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png"))
    assert actual.shape == (40, 48, 3)
    expected = np.asarray(image.convert("RGBA" if mode == "LA" else mode).convert("RGB"))
    assert np.abs(actual.astype(int) - expected).max() <= 2


def test_transparent_palettes_keep_their_colours(tmp_path: Path) -> None:
    image = picture(7).convert("P")
    actual = reread(image, tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(actual, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    actual = reread(Image.fromarray(values), tmp_path / f"a.{suffix}", "L")
    np.testing.assert_array_equal(actual, np.rint(values / 257).astype(np.uint8))


def test_float_images(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    actual = reread(Image.fromarray(values), tmp_path / "a.tif", "L")
    np.testing.assert_array_equal(actual, np.rint(values * 255).astype(np.uint8))
    for bad, words in ((np.nan, "NaN or infinite pixels"), (9.0, "outside 0 to 1")):
        values[3, 4] = bad
        with pytest.raises(Unreadable, match=f"a.tif holds .*{words}"):
            reread(Image.fromarray(values), tmp_path / "a.tif")


def test_of_several_frames_the_first(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    actual = reread(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert actual[0, 0].tolist() == [255, 0, 0]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:], quality=95)
    actual = np.asarray(read_image(tmp_path / "a.jpg", "a.jpg", "RGB"))
    assert actual[0, 0, 0] > 250


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that claims ``side`` by ``side`` pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def truncated() -> bytes:
    file = io.BytesIO()
    picture(1, (400, 300)).save(file, "JPEG")
    return file.getvalue()[:3000]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"dear diary", "a.jpg is not a JPEG, PNG, BMP, WebP, GIF or TIFF image."),
        (b"", "a.jpg is empty."),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a.jpg is not a JPEG, PNG"),
        (bomb(50_000), "a.jpg claims more than 89 megapixels"),  # for Pillow an error
        (bomb(10_000), "a.jpg claims more than 89 megapixels"),  # for Pillow a warning
        (truncated(), "a.jpg cannot be read: image file is truncated"),
    ],
    ids=["text", "empty", "postscript", "bomb", "little-bomb", "truncated"],
)
def test_a_file_other_than_an_image_is_named_and_skipped(
    tmp_path: Path, content: bytes, words: str, recwarn: pytest.WarningsRecorder
) -> None:
    folder(tmp_path, 5)
    (tmp_path / "a.jpg").write_bytes(content)
    data = load(tmp_path)
    assert len(data.calibration) + len(data.held_back) == 5
    (sentence,) = data.skipped
    assert sentence.startswith("a.jpg ")
    assert words in sentence
    assert sentence.endswith(".")
    assert not recwarn.list


def test_nan_pixels_are_skipped_by_name(tmp_path: Path) -> None:
    folder(tmp_path, 3)
    values = np.full((8, 8), np.nan, np.float32)
    Image.fromarray(values).save(tmp_path / "nan.tiff")
    assert load(tmp_path).skipped == ("nan.tiff holds NaN or infinite pixels.",)


def test_corrupt_files_are_replaced_up_to_ten_or_a_tenth(tmp_path: Path) -> None:
    folder(tmp_path, 20)
    for index in range(10):
        (tmp_path / f"bad{index}.png").write_text("no")
    data = load(tmp_path, samples=20)
    assert len(data.skipped) == 10
    assert len(data.calibration) + len(data.held_back) == 20
    (tmp_path / "bad10.png").write_text("no")
    message = refusal(tmp_path, samples=30)
    assert "images in" in message
    assert "cannot be used, for example: bad" in message


def test_a_tenth_of_many_may_be_skipped(tmp_path: Path) -> None:
    small = InputSpec.parse(["1x1x2x2"])
    for index in range(120):
        Image.new("L", (2, 2), index).save(tmp_path / f"{index}.bmp")
    for index in range(12):
        (tmp_path / f"bad{index}.bmp").write_text("no")
    assert len(load(tmp_path, small, samples=132).skipped) == 12
    (tmp_path / "bad12.bmp").write_text("no")
    (tmp_path / "bad13.bmp").write_text("no")
    assert "for example: bad" in refusal(tmp_path, small, samples=134)


def test_folders_without_enough_images(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refusal(empty) == f"There are no images in {empty}."
    (empty / "note.jpg").write_text("dear diary")
    assert "note.jpg is not a JPEG" in refusal(empty)
    one = folder(tmp_path / "one", 1)
    assert refusal(one) == (
        "There is one usable sample among 1 images in one/, but calibration needs at least two."
    )
    picture(0).save(one / "copy.png")
    assert "calibration needs at least two: all samples are equal." in refusal(one)


def test_copies_never_lie_on_both_sides(tmp_path: Path) -> None:
    folder(tmp_path, 4)
    for index in range(4):
        picture(index).save(tmp_path / f"copy{index}.bmp")
    data = load(tmp_path)
    assert len(data.calibration) + len(data.held_back) == 4
    assert any(note.startswith("4 of the images in") for note in data.notes)


def test_a_model_that_takes_no_images(tmp_path: Path) -> None:
    folder(tmp_path, 3)
    assert "1x16 int64" in refusal(tmp_path, InputSpec.parse(["1x16:int64"]))
    assert load(tmp_path, RGB).calibrated
