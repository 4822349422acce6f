"""The inputs that a file declares, and the inputs of one inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deployfold.config.inputs import DTYPES, InputSpec, TensorSpec
from deployfold.config.optimization_profiles import within
from deployfold.errors import MeasureError, UsageError, unknown_input

if TYPE_CHECKING:
    from torch import Tensor

    from deployfold.util.arrays import Array

    from .protocol import Inputs


@dataclass(frozen=True)
class StatedInput:
    """One input that a file declares.

    Attributes:
        dtype: the name of the dtype, which NumPy, torch and ONNX share.
        shape: the shape, with ``None`` for an axis that accepts several sizes.
        smallest: the smallest accepted shape.
        usual: the shape that an engine is tuned for; the smallest shape for an ONNX.
        largest: the largest accepted shape; ``None`` without a limit.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    smallest: tuple[int, ...]
    usual: tuple[int, ...]
    largest: tuple[int, ...] | None = None

    def __str__(self) -> str:
        sizes = ["?" if size is None else str(size) for size in self.shape]
        return f"{'x'.join(sizes) or 'scalar'} {self.dtype}"

    def contains(self, shape: tuple[int, ...]) -> bool:
        """Whether the file accepts ``shape``."""
        return within(self.smallest, shape, self.largest or shape)

    @property
    def spec(self) -> TensorSpec:
        """The input in its usual shape; float32 replaces a dtype that ``--input`` lacks."""
        return TensorSpec(self.usual, self.name, self.dtype if self.dtype in DTYPES else "float32")


def as_array(value: Array | Tensor) -> Array:
    """``value`` as a NumPy array; only a tensor imports torch."""
    if isinstance(value, np.ndarray):
        return value
    from .tensors import to_array

    return to_array(value)


def batch_of(inputs: Inputs) -> int:
    """The number of samples in one feed: the first axis of the first input; 1 for a scalar."""
    shape = tuple(inputs[0].shape) if inputs else ()
    return int(shape[0]) if shape else 1


def check_count(file: str, wanted: int, given: int) -> None:
    """Refuse another number of inputs than the file takes, by a :class:`MeasureError`."""
    if wanted != given:
        raise MeasureError(f"{file} takes {wanted} inputs, but {given} were given.")


def fill(stated: Sequence[StatedInput], asked: InputSpec | None, file: str) -> InputSpec:
    """The inputs of one inference: the declared inputs, in the requested or else usual shapes.

    Args:
        stated: the inputs that the file declares.
        asked: all or some of the inputs; ``None`` without a request.
        file: the file's name.

    Raises:
        UsageError: the file has no input of a requested name.
    """
    wanted = tuple(one.spec for one in stated)
    names = [one.name for one in stated]
    given = asked.tensors if asked is not None else ()
    if len(given) == 1 and len(wanted) == 1 and given[0].name is None:
        return InputSpec((TensorSpec(given[0].shape, names[0], given[0].dtype),))
    by_name = {one.name: one for one in given}
    for name in by_name:
        if name is None:
            raise UsageError(
                f"{file} has several inputs, so each needs a name.",
                hint=f"Its inputs are: {', '.join(names)}.",
            )
        if name not in names:
            raise unknown_input(file, name, names)
    return InputSpec(tuple(by_name.get(one.name, one) for one in wanted), origin=file)


def check_shapes(inputs: InputSpec, stated: Sequence[StatedInput], file: str) -> None:
    """Refuse a rank, or a size of a fixed axis, that the file does not declare.

    Raises:
        UsageError: names both shapes.
    """
    for given, one in zip(inputs.tensors, stated, strict=True):
        free = ["?" if size is None else str(size) for size in one.shape]
        fits = len(free) == len(given.shape) and all(
            size in ("?", str(wanted)) for size, wanted in zip(free, given.shape, strict=True)
        )
        if not fits:
            raise UsageError(
                f"{file} takes {one.name!r} of shape {'x'.join(free) or 'scalar'}, but "
                f"{'x'.join(map(str, given.shape)) or 'a scalar'} was given.",
                hint="? stands for any size." if "?" in free else None,
            )
