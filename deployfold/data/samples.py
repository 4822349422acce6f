"""The records of real inputs: a sample, the form of a sample, and a source of samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deployfold.config.inputs import InputSpec
from deployfold.errors import UsageError
from deployfold.util.arrays import Array

if TYPE_CHECKING:
    from .labels import Label
    from .preprocess.steps import Preprocess

Sample = Mapping[str, Array]
"""The inputs of one sample by name, in the shapes and dtypes of a :class:`SampleForm`."""

SOURCES = (
    "Give a folder of images, an .npy or .npz file, a .pt file of tensors, "
    "package.module:function, or random."
)
"""A hint with the kinds of data that ``--calib`` and ``--input-data`` accept."""


class Unreadable(Exception):
    """One sample cannot be used, for the reason in the message; another may replace it."""


@dataclass(frozen=True)
class SampleForm:
    """The shape and dtype of one sample of a model's inputs.

    Attributes:
        shapes: the shape of one sample of each input; without the batch axis if ``stacked``.
        batch: the number of samples in one feed: the model's batch size, or 1 if not ``stacked``.
        stacked: whether all inputs have a common batch axis. If not, a feed is one sample.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype[Any], ...]
    batch: int
    stacked: bool

    @classmethod
    def of(cls, inputs: InputSpec) -> SampleForm:
        """The form of the samples of ``inputs``.

        Raises:
            UsageError: an input is bfloat16, which neither numpy nor ONNX Runtime's CPU can feed.
        """
        shapes = tuple(tensor.shape for tensor in inputs.tensors)
        stacked = all(shape and shape[0] == inputs.batch for shape in shapes)
        if any(tensor.dtype == "bfloat16" for tensor in inputs.tensors):
            raise UsageError(
                "A model with bfloat16 inputs cannot be calibrated on the CPU.",
                hint="Convert it with model.float() before it is saved.",
            )
        return cls(
            names=inputs.names,
            shapes=tuple(shape[1:] for shape in shapes) if stacked else shapes,
            dtypes=tuple(np.dtype(tensor.dtype) for tensor in inputs.tensors),
            batch=inputs.batch if stacked else 1,
            stacked=stacked,
        )

    def check_dtype(self, index: int, dtype: np.dtype[Any], where: str) -> None:
        """Refuse values of another kind than the input's; the width may differ.

        Raises:
            UsageError: the kinds differ, such as uint8 pixels for a float input.
        """
        wanted = self.dtypes[index]
        integers = wanted.kind in "iu" and dtype.kind in "iu"
        if dtype.kind == wanted.kind or integers:
            return
        hint = f"Store the values that the model takes, as {wanted}."
        if wanted.kind == "f" and dtype.kind in "iu":
            hint = f"Store the values that the model takes, scaled and normalised, as {wanted}."
        name = self.names[index]
        raise UsageError(
            f"{where} holds {dtype}, but the input {name!r} takes {wanted}.", hint=hint
        )

    def conform(self, index: int, values: Array, where: str) -> Array:
        """A contiguous copy of one sample's ``values`` in the input's dtype.

        Args:
            values: values in the shape of the sample, with a checked dtype.
            where: the name of the sample in the message.

        Raises:
            UsageError: a value is NaN, infinite, or beyond the dtype.
        """
        wanted = self.dtypes[index]
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UsageError(
                f"{where} holds NaN or infinite values.", hint="Correct the sample, or remove it."
            )
        with np.errstate(over="ignore"):
            cast = np.array(values, dtype=wanted, order="C")
        fits = np.isfinite(cast).all() if wanted.kind == "f" else np.array_equal(cast, values)
        if not fits:
            raise UsageError(f"{where} holds values beyond what {wanted} can represent.")
        return cast


@dataclass(frozen=True)
class SampleSource:
    """Samples that can be read one by one.

    Attributes:
        read: reads the sample at an index below ``count``, also from several threads. Raises
            Unreadable if another sample may replace it, and UsageError to end the reading.
        what: the name of the samples in messages, such as «images in pictures/».
        files: the path of each sample below the folder; ``None`` if the samples are not files.
        notes: sentences for the report.
        settings: all other settings that affect the values of the samples, for the digest.
        preprocess: the steps from an image to a sample; ``None`` if the samples are not images.
        labels: the labels that the source itself holds, in the order of the samples.
    """

    count: int
    read: Callable[[int], Sample]
    what: str
    files: Sequence[str] | None = None
    notes: tuple[str, ...] = ()
    settings: str = ""
    preprocess: Preprocess | None = None
    labels: tuple[Label, ...] | None = None


def sample_digest(sample: Sample) -> str:
    """Hex SHA-256 over the names, shapes, dtypes and values of a sample."""
    digest = hashlib.sha256()
    for name, values in sample.items():
        digest.update(f"{name}\0{values.dtype.str}\0{values.shape}\0".encode())
        digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def text_shape(shape: Sequence[object]) -> str:
    """``3x224x224``; «one number» for a scalar."""
    return "x".join(map(str, shape)) or "one number"
