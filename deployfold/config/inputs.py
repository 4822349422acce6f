"""The inputs of a model: validated, immutable, and free of torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from deployfold.errors import UsageError

from .optimization_profiles import Dynamic, DynamicBatch, OptimizationProfile, complete, span

DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8", "bool")
"""The input dtypes that ``--input`` accepts; torch, numpy and ONNX share these names."""


@dataclass(frozen=True)
class TensorSpec:
    """The name, shape and dtype of one model input.

    The name is ``None`` until the model provides one. The batch axis is the first of the shape.
    """

    shape: tuple[int, ...]
    name: str | None = None
    dtype: str = "float32"

    @classmethod
    def parse(cls, text: str) -> TensorSpec:
        """Read ``[NAME=]1x3x224x224[:DTYPE]``; the shape ``scalar`` has no axes.

        Raises:
            UsageError: the text does not follow that grammar.
        """
        hint = "Write it as --input 1x3x224x224 or --input name=1x3x224x224:float32."
        match = re.fullmatch(r"(?:([^=]+)=)?(\d{1,9}(?:x\d{1,9})*|scalar)(?::([a-z0-9]+))?", text)
        if match is None:
            raise UsageError(f"{text!r} is not an input shape.", hint=hint)
        name, dimensions, dtype = match.groups()
        if name is not None and re.fullmatch(r"[A-Za-z_][\w.]*", name, re.ASCII) is None:
            raise UsageError(f"{name!r} is not a usable input name.", hint=hint)
        if dtype is not None and dtype not in DTYPES:
            raise UsageError(
                f"{dtype!r} is not an input dtype.", hint=f"Use one of: {', '.join(DTYPES)}."
            )
        sizes = [] if dimensions == "scalar" else dimensions.split("x")
        shape = tuple(map(int, sizes))
        if 0 in shape:
            raise UsageError(f"The input shape {dimensions} has an empty axis.", hint=hint)
        return cls(shape=shape, name=name, dtype=dtype or "float32")

    def __str__(self) -> str:
        text = "x".join(map(str, self.shape)) or "scalar"
        text = text if self.dtype == "float32" else f"{text}:{self.dtype}"
        return text if self.name is None else f"{self.name}={text}"


@dataclass(frozen=True)
class InputSpec:
    """All inputs of a model, in the order of its ``forward``.

    Attributes:
        origin: the source of the shapes, for the user: ``"--input"``,
            ``"torchvision:resnet50"``, ``"first layer"``.
        profiles: the ranges of shapes that an engine serves; empty for the shapes of ``tensors``
            alone.
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
        """The input names; ``input`` or ``input_0``, ``input_1``, … for inputs without a name."""
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
        """The same inputs with these optimization profiles.

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
        """For each input, the least and greatest size of every dynamic axis, by axis."""
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


def random_origin(seed: int) -> str:
    """The origin of random values in a report; ``compare`` needs equal origins in both reports."""
    return f"seeded random (seed {seed})"


def read_inputs(texts: tuple[str, ...]) -> InputSpec | None:
    """Read every ``--input``; ``None`` if there is none."""
    return InputSpec.parse(texts) if texts else None
