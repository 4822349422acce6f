"""Inputs and limits: validated, immutable, and free of torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from deployfold.errors import UsageError

from .option import Panel, option
from .shapes import Dynamic, DynamicBatch, OptimizationProfile, complete, span

DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8", "bool")
"""The input dtypes that ``--input`` takes; torch, numpy and ONNX share these names."""


@dataclass(frozen=True)
class TensorSpec:
    """One model input: its name (``None`` until the model gives it one), shape and dtype.

    The shape includes the batch axis, which comes first.
    """

    shape: tuple[int, ...]
    name: str | None = None
    dtype: str = "float32"

    @classmethod
    def parse(cls, text: str) -> TensorSpec:
        """Read ``[NAME=]1x3x224x224[:DTYPE]``.

        Raises:
            UsageError: the text does not follow that grammar.
        """
        hint = "Write it as --input 1x3x224x224 or --input name=1x3x224x224:float32."
        match = re.fullmatch(r"(?:([^=]+)=)?(\d{1,9}(?:x\d{1,9})*)(?::([a-z0-9]+))?", text)
        if match is None:
            raise UsageError(f"{text!r} is not an input shape.", hint=hint)
        name, dimensions, dtype = match.groups()
        if name is not None and re.fullmatch(r"[A-Za-z_][\w.]*", name, re.ASCII) is None:
            raise UsageError(f"{name!r} is not a usable input name.", hint=hint)
        if dtype is not None and dtype not in DTYPES:
            raise UsageError(
                f"{dtype!r} is not an input dtype.", hint=f"Use one of: {', '.join(DTYPES)}."
            )
        shape = tuple(int(dimension) for dimension in dimensions.split("x"))
        if 0 in shape:
            raise UsageError(f"The input shape {dimensions} has an empty axis.", hint=hint)
        return cls(shape=shape, name=name, dtype=dtype or "float32")

    def __str__(self) -> str:
        text = "x".join(map(str, self.shape))
        text = text if self.dtype == "float32" else f"{text}:{self.dtype}"
        return text if self.name is None else f"{self.name}={text}"


@dataclass(frozen=True)
class InputSpec:
    """All inputs of a model in the order its ``forward`` takes them, and where they came from.

    ``origin`` says it to the user: ``"--input"``, ``"torchvision:resnet50"``, ``"first layer"``.
    ``profiles`` are the shapes that an engine serves; without any, those of ``tensors`` alone.
    """

    tensors: tuple[TensorSpec, ...]
    origin: str = "--input"
    profiles: tuple[OptimizationProfile, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> InputSpec:
        """Read every ``--input``; see :meth:`TensorSpec.parse`.

        Raises:
            UsageError: a text is malformed or a name is given twice.
        """
        tensors = tuple(TensorSpec.parse(text) for text in texts)
        names = [tensor.name for tensor in tensors if tensor.name is not None]
        if len(set(names)) != len(names):
            raise UsageError("Two --input options name the same input.")
        return cls(tensors=tensors)

    @property
    def names(self) -> tuple[str, ...]:
        """The input names, ``input`` or ``input_0``, ``input_1``, … where the model gave none."""
        single = len(self.tensors) == 1
        return tuple(
            tensor.name or ("input" if single else f"input_{index}")
            for index, tensor in enumerate(self.tensors)
        )

    @property
    def batch(self) -> int:
        """The batch size of the first input; 1 where it is a scalar."""
        shape = self.tensors[0].shape if self.tensors else ()
        return shape[0] if shape else 1

    def with_profiles(self, dynamic: Dynamic) -> InputSpec:
        """The same inputs, to be served in these batch sizes or shapes.

        Raises:
            UsageError: a profile does not fit the inputs.
        """
        shapes = {name: one.shape for name, one in zip(self.names, self.tensors, strict=True)}
        profiles = tuple(
            one.profile(shapes) if isinstance(one, DynamicBatch) else complete(one, shapes)
            for one in dynamic
        )
        return replace(self, profiles=profiles)

    @property
    def dynamic_axes(self) -> tuple[dict[int, tuple[int, int]], ...]:
        """For each input the least and the greatest size of every axis that has several."""
        if not self.profiles:
            return ({},) * len(self.tensors)
        spans = map(span, zip(*self.profiles, strict=True))
        return tuple(
            {
                axis: (low, high)
                for axis, (low, high) in enumerate(zip(one.min, one.max, strict=True))
                if low < high
            }
            for one in spans
        )

    def with_batch(self, batch: int) -> InputSpec:
        """The same inputs with the first axis of each set to ``batch``."""
        return replace(
            self,
            tensors=tuple(
                replace(tensor, shape=(batch, *tensor.shape[1:])) if tensor.shape else tensor
                for tensor in self.tensors
            ),
        )

    def __str__(self) -> str:
        return ", ".join(map(str, self.tensors))


def parse_row_limits(texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Read every ``ROW=LIMIT`` of ``--max-latency-ms``, ``--max-diff-of``, ``--min-speedup-of``.

    Raises:
        UsageError: a text is not ``ROW=LIMIT`` with a positive number.
    """
    limits = []
    for text in texts:
        row, separator, number = text.rpartition("=")
        try:
            limit = float(number)
        except ValueError:
            limit = float("nan")
        if not separator or not row or not limit > 0:
            raise UsageError(
                f"{text!r} is not a limit for a row.",
                hint="Write it as ROW=NUMBER, such as onnxruntime=12.5.",
            )
        limits.append((row, limit))
    return tuple(limits)


@dataclass(frozen=True)
class Thresholds:
    """Limits that make a build fail, with exit code 7, after everything was measured."""

    min_speedup: float | None = option(
        None,
        "Fail unless a row is X times as fast; the original counts as 1.",
        Panel.LIMITS,
        metavar="X",
        common=True,
        least=0,
    )
    max_diff: float | None = option(
        None,
        "Fail if a row's outputs differ from the original's by more (max abs difference), or if a "
        "row was not measured.",
        Panel.LIMITS,
        metavar="D",
        least=0,
    )
    max_diff_of: tuple[tuple[str, float], ...] = option(
        (),
        "Fail if this row differs by more, whatever the others do; repeat it for several.",
        Panel.LIMITS,
        metavar="ROW=D",
        read=parse_row_limits,
    )
    min_speedup_of: tuple[tuple[str, float], ...] = option(
        (),
        "Fail unless this row is X times as fast; repeat it for several.",
        Panel.LIMITS,
        metavar="ROW=X",
        read=parse_row_limits,
    )
    max_latency_ms: tuple[tuple[str, float], ...] = option(
        (),
        "Fail if the row's median latency is above; repeat it for several.",
        Panel.LIMITS,
        metavar="ROW=MS",
        read=parse_row_limits,
    )
