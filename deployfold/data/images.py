"""Reads the images of a folder; each image is one sample."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from deployfold.errors import UsageError, one_line

from .preprocess.steps import MAX_PIXELS, Preprocess
from .samples import SOURCES, Sample, SampleForm, SampleSource, Unreadable

_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"))
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
"""The allowed decoders of Pillow; some of the others start programs such as Ghostscript."""
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"GIF8", b"II*\0", b"MM\0*")


def image_source(folder: Path, form: SampleForm, preprocess: Preprocess) -> SampleSource:
    """The images below ``folder``; each is one sample of the model's only input.

    Raises:
        UsageError: the folder cannot be listed, or has no images.
    """
    files = find_images(folder)
    if not files:
        raise UsageError(
            f"There are no images in {folder}.",
            hint=f"Images are JPEG, PNG, BMP, WebP, GIF and TIFF files. {SOURCES}",
        )

    def read(index: int) -> Sample:
        image = read_image(folder / files[index], files[index], preprocess.mode)
        try:
            values = preprocess.apply(image)
        except Unreadable as error:
            raise Unreadable(f"{files[index]} {error}") from error
        return {form.names[0]: form.conform(0, values, files[index])}

    return SampleSource(
        count=len(files),
        read=read,
        what=f"images in {folder.name or folder}/",
        files=files,
        notes=preprocess.notes,
        settings=repr(preprocess),
        preprocess=preprocess,
    )


def find_images(folder: Path) -> tuple[str, ...]:
    """The images below ``folder``, as sorted paths relative to it with forward slashes.

    A file is an image if its suffix or its first bytes are those of an image. Links count, hidden
    files do not. A folder with several links to it counts once.

    Raises:
        UsageError: the folder cannot be listed.
    """
    try:
        with os.scandir(folder):
            pass
    except OSError as error:
        raise UsageError(f"Cannot list {folder}: {error.strerror or error}.") from error
    return tuple(sorted(path.relative_to(folder).as_posix() for path in _walk(folder)))


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            state = current.stat()
            entries = sorted(current.iterdir())
        except OSError:  # a folder without read permission, or one that was removed meanwhile
            continue
        if (state.st_dev, state.st_ino) in seen:
            continue
        seen.add((state.st_dev, state.st_ino))
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        below = [entry for entry in shown if _holds(entry.is_dir)]
        # Visit folders before links, so that a file's path does not contain a link to its folder.
        pending = [
            *(entry for entry in below if entry.is_symlink()),
            *pending,
            *(entry for entry in reversed(below) if not entry.is_symlink()),
        ]
        yield from (entry for entry in shown if _counts(entry))


def _counts(path: Path) -> bool:
    known = path.suffix.lower() in _SUFFIXES
    if not _holds(path.is_file):  # opening a pipe or a device could block
        return known and path.is_symlink() and not _holds(path.exists)
    if known:
        return True
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def _holds(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # no permission
        return False


def read_image(path: Path, name: str, mode: str) -> Image.Image:
    """One image with 8 bits per channel, rotated by its EXIF orientation.

    A file with several frames gives the first one.

    Args:
        name: the file's name in messages.
        mode: ``RGB`` or ``L``. Transparency is dropped, as in training pipelines.

    Raises:
        Unreadable: the file is not an image, is damaged, or is a decompression bomb.
    """
    try:
        if path.stat().st_size == 0:
            raise Unreadable(f"{name} is empty.")
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Unreadable(_too_large(name))
            image.load()
            return _eight_bits(_upright(image), name).convert(mode)
    except Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(f"{name} is not a JPEG, PNG, BMP, WebP, GIF or TIFF image.") from error
    except Image.DecompressionBombError as error:
        raise Unreadable(_too_large(name)) from error
    except FileNotFoundError as error:
        raise Unreadable(f"{name} does not exist, or its link is broken.") from error
    except Exception as error:  # damaged bytes can make a decoder raise any exception
        reason = getattr(error, "strerror", None) or one_line(error, 200)
        raise Unreadable(f"{name} cannot be read: {reason}.") from error


def _too_large(name: str) -> str:
    return f"{name} claims more than {MAX_PIXELS // 10**6} megapixels, like a decompression bomb."


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data does not affect the pixels
        return image


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Scale deeper modes to 8 bits; Pillow's own conversion clips them at 255."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        values = np.asarray(image).astype(np.float64) / 257  # 65535 becomes 255
    elif image.mode == "F":
        values = np.asarray(image, dtype=np.float64) * 255
        if not np.isfinite(values).all():
            raise Unreadable(f"{name} holds NaN or infinite pixels.")
        if values.min() < 0 or values.max() > 255:
            raise Unreadable(f"{name} holds float pixels outside 0 to 1, so white is unknown.")
    elif image.mode == "I":
        raise Unreadable(f"{name} holds 32-bit pixels, so the value of white is unknown.")
    elif image.mode in ("P", "PA", "LA"):
        return image.convert("RGBA")
    else:
        return image
    return Image.fromarray(np.rint(values).astype(np.uint8))
