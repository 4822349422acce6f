"""A detector's boxes on the picture that they were found in: as a list, and drawn."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from deployfold.data.preprocess.steps import Preprocess
from deployfold.errors import UsageError
from deployfold.scoring.detections import read_detections

_GOLDEN = 0.618
"""The step of the hue from class to class, in turns: neighbours differ most."""


def boxes_on(
    picture: Image.Image,
    outputs: Sequence[Any],
    steps: Preprocess,
    labels: Sequence[str],
    *,
    least: float,
) -> list[dict[str, Any]] | None:
    """The boxes of the first sample in pixels of the picture, the best first.

    Args:
        picture: upright, in its own size.
        outputs: of the model, see :mod:`deployfold.scoring.detections`.
        steps: from the picture to the model's input.
        labels: the names of the classes.
        least: the score from which a box counts.

    Returns:
        Class, label (if it has one), score and box (x1, y1, x2, y2) of each; ``None`` if the
        outputs hold no boxes.
    """
    found = read_detections(outputs)
    if not found:
        return None
    one = found[0]
    a, b, c, d = steps.frame(*picture.size)
    boxes = (one.boxes - [c, d, c, d]) / [a, b, a, b]
    return [
        {"class": kind, "score": float(one.scores[index]), "box": boxes[index].round(2).tolist()}
        | ({"label": labels[kind]} if 0 <= kind < len(labels) else {})
        for index in (-one.scores).argsort(kind="stable").tolist()
        if one.scores[index] >= least
        for kind in [int(one.classes[index])]
    ]


def draw_boxes(picture: Image.Image, boxes: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the picture with boxes of :func:`boxes_on`; the suffix of ``path`` decides the format.

    Raises:
        UsageError: the file cannot be written.
    """
    drawn = picture.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    side = max(picture.size)
    font = ImageFont.load_default(max(10, side // 45))
    for one in reversed(boxes):  # the best box on top
        left, top, right, bottom = map(round, one["box"])
        colour = _colour(one["class"])
        corners = (left, top, max(left, right), max(top, bottom))
        pen.rectangle(corners, outline=colour, width=max(1, round(side / 250)))
        text = f"{one.get('label', one['class'])} {one['score']:.2f}"
        box = pen.textbbox((0, 0), text, font=font)
        high = box[3] + 2
        wide = box[2] + 3
        place = (max(0, min(left, picture.width - wide)), top - high if top >= high else top)
        pen.rectangle((*place, place[0] + wide, place[1] + high), fill=colour)
        pen.text((place[0] + 2, place[1]), text, fill=(255, 255, 255), font=font)
    try:
        drawn.save(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--draw cannot write {path}: {error}.", hint="Name a .png or a .jpg in a folder."
        ) from error


def _colour(kind: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hls_to_rgb((kind * _GOLDEN) % 1.0, 0.4, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)
