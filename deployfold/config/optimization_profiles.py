"""Optimization profiles: the ranges of shapes that an engine serves, as plain data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployfold.errors import UsageError, unknown_input

Shape = tuple[int, ...]


@dataclass(frozen=True)
class InputShapes:
    """The range of shapes of one input under one optimization profile.

    The name is empty until the model provides one.

    Raises:
        UsageError: the ranks differ, or some axis violates 1 <= min <= opt <= max.
    """

    name: str
    min: Shape
    opt: Shape
    max: Shape

    def __post_init__(self) -> None:
        ranks = {len(self.min), len(self.opt), len(self.max)}
        axes = zip(self.min, self.opt, self.max, strict=False)
        if len(ranks) != 1 or not all(1 <= low <= mid <= high for low, mid, high in axes):
            what = f"input {self.name!r}" if self.name else "an input"
            raise UsageError(
                f"The shapes of {what} need 1 <= min <= opt <= max on every axis, "
                f"not min {self.min}, opt {self.opt}, max {self.max}."
            )

    def contains(self, shape: Sequence[int]) -> bool:
        """Whether ``shape`` lies within the bounds."""
        return within(self.min, shape, self.max)


def within(low: Sequence[int], shape: Sequence[int], high: Sequence[int]) -> bool:
    """Whether the three ranks agree and every axis of ``shape`` lies between the bounds."""
    return len(low) == len(shape) == len(high) and all(
        least <= size <= most for least, size, most in zip(low, shape, high, strict=True)
    )


def span(ranges: Sequence[InputShapes]) -> InputShapes:
    """The smallest range that covers all given ranges of one input, with the first one's opt."""
    low, high = (
        tuple(pick(sizes) for sizes in zip(*bounds, strict=True))
        for pick, bounds in ((min, [one.min for one in ranges]), (max, [one.max for one in ranges]))
    )
    return InputShapes(ranges[0].name, low, ranges[0].opt, high)


OptimizationProfile = tuple[InputShapes, ...]
"""One ``InputShapes`` for each input."""


def profiles_from_json(
    data: Sequence[Sequence[Mapping[str, Any]]],
) -> tuple[OptimizationProfile, ...]:
    """Read optimization profiles from JSON: for each profile a list of ``vars(InputShapes)``.

    Raises:
        KeyError, TypeError, ValueError: the data has another form.
        UsageError: an input violates min <= opt <= max.
    """
    return tuple(
        tuple(
            InputShapes(one["name"], *(tuple(map(int, one[key])) for key in ("min", "opt", "max")))
            for one in profile
        )
        for profile in data
    )


def parse_profile(text: str) -> OptimizationProfile:
    """Read ``[NAME=]MIN:OPT:MAX``, such as ``1x3x224x224:4x3x224x224:8x3x320x320``.

    A comma separates inputs.

    Raises:
        UsageError: the text does not follow that grammar, or violates min <= opt <= max.
    """
    shape = r"\d{1,9}(?:x\d{1,9})*"
    profile = []
    for part in text.split(","):
        match = re.fullmatch(rf"(?:([A-Za-z_][\w.]*)=)?({shape}):({shape}):({shape})", part)
        if match is None:
            raise UsageError(
                f"{part!r} is not a range of shapes.",
                hint="Write it as --shapes 1x3x224x224:4x3x224x224:8x3x320x320 (min, opt, max), "
                "and several inputs as a=…,b=….",
            )
        bounds = [tuple(map(int, bound.split("x"))) for bound in match.groups()[1:]]
        profile.append(InputShapes(match[1] or "", *bounds))
    names = [one.name for one in profile if one.name]
    if len(set(names)) < len(names):
        raise UsageError(f"--shapes {text} names the same input twice.")
    return tuple(profile)


@dataclass(frozen=True)
class DynamicBatch:
    """The batch sizes that an engine serves under one optimization profile: min, opt and max."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise UsageError(
                f"A dynamic batch needs 1 <= min <= opt <= max, not {self}.",
                hint="Write it as --dynamic-batch 1:8:32.",
            )

    @classmethod
    def parse(cls, text: str) -> DynamicBatch:
        """Read ``MIN:OPT:MAX``.

        Raises:
            UsageError: the text is not three ordered positive integers.
        """
        if re.fullmatch(r"\d{1,9}:\d{1,9}:\d{1,9}", text) is None:
            raise UsageError(
                f"{text!r} is not a dynamic batch.",
                hint="Write it as --dynamic-batch 1:8:32; a comma separates profiles.",
            )
        return cls(*map(int, text.split(":")))

    def profile(self, shapes: Mapping[str, Shape]) -> OptimizationProfile:
        """The profile of inputs with these shapes, in which only the first axis varies.

        A scalar input stays a scalar.
        """
        return tuple(
            InputShapes(
                name,
                *((size, *shape[1:]) if shape else () for size in (self.min, self.opt, self.max)),
            )
            for name, shape in shapes.items()
        )

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"


Dynamic = tuple[DynamicBatch | OptimizationProfile, ...]
"""The values of ``--dynamic-batch`` and ``--shapes``, one optimization profile each."""


def read_dynamic_batch(text: str | None) -> tuple[DynamicBatch, ...]:
    """Read ``--dynamic-batch``: commas separate profiles; a missing flag gives none."""
    return () if text is None else tuple(DynamicBatch.parse(part) for part in text.split(","))


def read_shapes(texts: Sequence[str]) -> tuple[OptimizationProfile, ...]:
    """Read every ``--shapes``."""
    return tuple(parse_profile(text) for text in texts)


def complete(profile: OptimizationProfile, shapes: Mapping[str, Shape]) -> OptimizationProfile:
    """The profile with one range for every input, in the order of the inputs.

    Unnamed ranges belong to the inputs that no range names, in order. Inputs without a range keep
    their shape.

    Args:
        shapes: the shape of every input, by name.

    Raises:
        UsageError: a name is unknown, a rank is wrong, or there are more ranges than inputs.
    """
    named = {one.name: one for one in profile if one.name}
    for name in named:
        if name not in shapes:
            raise unknown_input("The model", name, shapes)
    unnamed = [one for one in profile if not one.name]
    free = [name for name in shapes if name not in named]
    if len(unnamed) > len(free):
        raise UsageError(
            f"--shapes gives {len(profile)} inputs, but the model has {len(shapes)}: "
            f"{', '.join(shapes)}."
        )
    named |= dict(zip(free, unnamed, strict=False))
    for name, one in named.items():
        if len(one.opt) != len(shapes[name]):
            raise UsageError(
                f"The input {name!r} has {len(shapes[name])} axes, but --shapes gives it "
                f"{len(one.opt)}."
            )
    return tuple(
        InputShapes(name, named[name].min, named[name].opt, named[name].max)
        if name in named
        else InputShapes(name, shape, shape, shape)
        for name, shape in shapes.items()
    )
