"""Labels of boxes and of pixels follow the picture through resizing, cropping and padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deployfold.data.boxes import Boxes, coco_labels
from deployfold.data.labels import label_digest, labels_in, parse_labels
from deployfold.data.masks import mask_labels
from deployfold.data.preprocess.recipes import Fit
from deployfold.data.preprocess.steps import Preprocess
from deployfold.errors import UsageError


def steps(resize: tuple[int, int], crop: tuple[int, int], fit: Fit) -> Preprocess:
    return Preprocess(resize, fit, crop, "nearest", (0.0,) * 3, (1.0,) * 3, "nhwc", "rgb", "uint8")


@given(
    width=st.integers(40, 90), height=st.integers(40, 90), fit=st.sampled_from(["cover", "pad"]),
    crop=st.sampled_from([(32, 32), (24, 40), (48, 48)]), data=st.data(),
)  # fmt: skip
def test_a_box_stays_around_its_pixels(
    width: int, height: int, fit: Fit, crop: tuple[int, int], data: Any
) -> None:
    x, y = data.draw(st.integers(0, width - 20)), data.draw(st.integers(0, height - 20))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y : y + 20, x : x + 20] = 255
    process = steps((40, 40), crop, fit)
    seen = np.argwhere(process.apply(Image.fromarray(pixels))[:, :, 0] == 255)
    a, b, c, d = process.frame(width, height)
    corners = [x * a + c, y * b + d, (x + 20) * a + c, (y + 20) * b + d]
    clipped = np.clip(corners, 0, [crop[1], crop[0]] * 2)
    if not len(seen):
        assert min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < 1.0
        return
    (top, left), (bottom, right) = seen.min(0), seen.max(0) + 1
    np.testing.assert_allclose([left, top, right, bottom], clipped, atol=1.01)


def coco(**more: Any) -> dict[str, Any]:
    value = {
        "images": [{"id": 7, "file_name": "a.png", "width": 80, "height": 40}],
        "annotations": [
            {"image_id": 7, "bbox": [30, 10, 20, 20], "category_id": 5},
            {"image_id": 7, "bbox": [0, 0, 25, 20], "category_id": 2},
            {"image_id": 7, "bbox": [0, 0, 10, 10], "category_id": 2},
        ],
        "categories": [{"id": 2}, {"id": 5}],
    }
    return {**value, **more}


def read(value: Any, files: tuple[str, ...] = ("x/a.png",)) -> Boxes:
    process = steps((40, 40), (40, 40), "cover")
    labels, notes = coco_labels(
        value, Path("l.json"), folder=Path(), files=files, preprocess=process
    )
    assert "2 categories" in notes[0]
    return labels[0]


def test_boxes_of_the_central_crop() -> None:
    found = read(coco())
    # 80x40 is cropped to its middle: 20 columns fall away on the left.
    assert found.boxes.tolist() == [[10, 10, 30, 30], [0, 0, 5, 20]]
    assert found.classes.tolist() == [1, 0], "counted from 0"
    assert found.ids.tolist() == [5, 2]
    assert found.ignored.tolist() == [False, True], "a fifth of the second is inside"
    assert label_digest(found) == label_digest(read(coco()))
    moved = coco()
    moved["annotations"][0]["bbox"][0] = 31
    assert label_digest(found) != label_digest(read(moved))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (coco(images=[]), "no entry in its images for x/a.png"),
        (coco(categories=[{"id": 2}]), "has no category 5"),
        (coco(annotations=[{"image_id": 7}]), "annotations.0.bbox"),
        (coco(images=3), "images"),
    ],
)
def test_the_error_names_the_field_of_a_damaged_annotation_file(value: Any, message: str) -> None:
    assert parse_labels(json.dumps(value), "l.json") == value
    with pytest.raises(UsageError, match=message):
        read(value)


def test_masks_are_resized_to_the_nearest_and_cropped(tmp_path: Path) -> None:
    mask = np.zeros((20, 40), np.uint8)
    mask[:, 20:] = 3
    (tmp_path / "a").mkdir()
    Image.fromarray(mask).save(tmp_path / "a" / "b.png")
    (found,) = mask_labels(
        tmp_path, files=("a/b.jpg",), preprocess=steps((40, 40), (40, 40), "cover")
    )
    assert found.shape == (40, 40)
    assert set(np.unique(found)) == {0, 3}, "nothing between the classes"
    assert (found[:, :20] == 0).all()
    assert (found[:, 20:] == 3).all()
    (padded,) = mask_labels(
        tmp_path, files=("a/b.jpg",), preprocess=steps((40, 40), (40, 40), "pad")
    )
    assert (padded[:10] == 255).all(), "outside the picture nothing counts"
    with pytest.raises(UsageError, match=r"no mask for c.jpg"):
        mask_labels(tmp_path, files=("c.jpg",), preprocess=steps((4, 4), (4, 4), "cover"))
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(UsageError, match="has the mode RGB"):
        mask_labels(tmp_path, files=("c.jpg",), preprocess=steps((4, 4), (4, 4), "cover"))


def test_an_array_is_classes_or_masks() -> None:
    assert labels_in(np.array([3, 1]), "l.npy") == [3, 1]
    masks = labels_in(np.zeros((2, 4, 4), np.uint8), "l.npy")
    assert [np.shape(mask) for mask in masks] == [(4, 4), (4, 4)]
    with pytest.raises(UsageError, match="not integers"):
        labels_in(np.zeros(2), "l.npy")
