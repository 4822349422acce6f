"""Reads labels of pixels: a folder with one mask for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from deployfold.errors import UsageError, first_few
from deployfold.util.arrays import Array

from .preprocess.steps import Preprocess

_OUTSIDE = 255
"""The class of pixels that do not count: around a padded image, and where a mask has 255."""


def mask_labels(masks: Path, *, files: Sequence[str], preprocess: Preprocess) -> tuple[Array, ...]:
    """The mask of every image, resized to the nearest pixel and cropped as the image is.

    Args:
        masks: the folder; the mask of ``a/b.jpg`` is ``a/b.png`` in it, with one channel or a
            palette whose indices are the classes.
        files: the images' paths below their own folder.
        preprocess: the steps from an image to the model's input.

    Returns:
        Arrays of integers (height, width) in the order of ``files``.

    Raises:
        UsageError: a mask is missing or cannot be read.
    """
    paths = [masks / PurePosixPath(file).with_suffix(".png") for file in files]
    missing = [file for file, path in zip(files, paths, strict=True) if not path.is_file()]
    if missing:
        raise UsageError(
            f"{masks} has no mask for {first_few(missing)}.",
            hint="The mask of a/b.jpg is the file a/b.png below the folder of masks.",
        )
    steps = replace(
        preprocess, interpolation="nearest", channels="grey", dtype="uint8", layout="nhwc",
        mean=(_OUTSIDE / 255,), std=(1.0,),
    )  # fmt: skip
    return tuple(_mask(path, steps) for path in paths)


def _mask(path: Path, steps: Preprocess) -> Array:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
            if image.mode not in ("L", "P", "1"):
                raise UsageError(
                    f"{path} has the mode {image.mode}: a mask has one channel of 8 bits, or a "
                    "palette."
                )
            classes = Image.fromarray(np.asarray(image).astype(np.uint8))
    except UsageError:
        raise
    except Exception as error:  # damaged bytes can make the decoder raise any exception
        raise UsageError(f"{path} cannot be read as a PNG.") from error
    return steps.apply(classes)[:, :, 0]
