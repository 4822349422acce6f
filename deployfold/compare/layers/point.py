"""The outputs of layers as both sides of a comparison have them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from deployfold.exporting.session import Array

OUTPUT = "output"
"""The kind of an output of the whole model."""


@dataclass(frozen=True, eq=False)
class Point:
    """The output of one layer on one side.

    Attributes:
        name: of the layer, as it is shown.
        kind: its class or operator.
        keys: what it may be paired by, the surest first.
        handle: what the side fetches it by.
        tensor: equal for two points that are the same tensor.
        elements: how many numbers it holds, if that is known.
        exact: whatever is paired with it must have its shape. Otherwise another shape says that the
            exporter has merged operators of one module into another.
        weights: the layer has some.
        by_channel: each channel (axis 1) may have been multiplied by a factor of its own.
        shift: what has been taken off it, which the side adds again.
    """

    name: str
    kind: str
    keys: tuple[Hashable, ...]
    handle: Hashable
    tensor: Hashable
    elements: int | None = None
    exact: bool = False
    weights: bool = False
    by_channel: bool = False
    shift: float = 0.0


@dataclass(frozen=True, eq=False)
class Folds:
    """What of one side differs by design, since the other side has BatchNorms folded.

    Attributes:
        interior: tensors between a BatchNorm and what took it up, which differ.
        taken_up: by the point of a BatchNorm that of the layer in front of it, which took up that
            BatchNorm and nothing else: on the other side it computes what the BatchNorm does here.
    """

    interior: frozenset[Hashable] = frozenset()
    taken_up: dict[Point, Point] = field(default_factory=dict)


class Side(Protocol):
    """One of the two forms.

    Attributes:
        name: the file.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8``, …
        points: in the order in which the layers run.
        tensors: the shapes of weights and statistics by qualified name.
    """

    name: str
    precision: str
    points: Sequence[Point]
    tensors: dict[str, tuple[int, ...]]

    def folds(self, other: Side) -> Folds:
        """What differs since ``other`` has BatchNorms folded that this side has."""

    def run(self, points: Sequence[Point]) -> Iterator[list[Array]]:
        """The values of some points, for every feed in turn.

        Raises:
            MeasureError, ExportError: it does not run on these inputs.
        """
