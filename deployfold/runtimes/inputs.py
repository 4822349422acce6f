"""The inputs that a file states, and those of one inference of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deployfold.config.inputs import DTYPES, InputSpec, TensorSpec
from deployfold.config.optimization_profiles import within
from deployfold.errors import UsageError


@dataclass(frozen=True)
class StatedInput:
    """One input as a file states it.

    Attributes:
        dtype: by the name that NumPy, torch and ONNX share.
        shape: ``None`` on an axis that takes several sizes.
        smallest: the smallest shape that it takes.
        usual: the shape that an engine is tuned for; the smallest of an ONNX.
        largest: the largest shape that it takes; ``None`` where there is no limit.
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

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Whether the file takes that shape."""
        return within(self.smallest, shape, self.largest or shape)

    @property
    def spec(self) -> TensorSpec:
        """The input in its usual shape; float32 where ``--input`` does not know the dtype."""
        return TensorSpec(self.usual, self.name, self.dtype if self.dtype in DTYPES else "float32")


def fill(stated: Sequence[StatedInput], asked: InputSpec | None, file: str) -> InputSpec:
    """The inputs of one inference: those that a file states, in the shapes that are asked for.

    Raises:
        UsageError: it has no input of such a name.
    """
    wanted = tuple(one.spec for one in stated)
    names = [one.name for one in stated]
    given = asked.tensors if asked is not None else ()
    if len(given) == 1 and len(wanted) == 1 and given[0].name is None:
        return InputSpec((TensorSpec(given[0].shape, names[0], given[0].dtype),))
    by_name = {one.name: one for one in given}
    for name in by_name:
        if name is None or name not in names:
            what = "an input without a name" if name is None else f"no input named {name!r}"
            verb = "cannot tell" if name is None else "has"
            raise UsageError(f"{file} {verb} {what}.", hint=f"Its inputs are: {', '.join(names)}.")
    return InputSpec(tuple(by_name.get(one.name, one) for one in wanted), origin=file)


def check_shapes(inputs: InputSpec, stated: Sequence[StatedInput], file: str) -> None:
    """Refuse shapes that the file does not take, in a sentence that names both.

    Raises:
        UsageError: an axis that the file fixes has another size, or the rank differs.
    """
    for given, one in zip(inputs.tensors, stated, strict=True):
        free = ["?" if size is None else str(size) for size in one.shape]
        fits = len(free) == len(given.shape) and all(
            size in ("?", str(wanted)) for size, wanted in zip(free, given.shape, strict=True)
        )
        if not fits:
            raise UsageError(
                f"{file} takes {one.name!r} of shape {'x'.join(free) or 'scalar'}, and "
                f"{'x'.join(map(str, given.shape)) or 'a scalar'} was given.",
                hint="? is any size." if "?" in free else None,
            )
