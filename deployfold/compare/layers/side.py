"""The outputs of layers as both sides of a comparison have them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from deployfold.exporting.session import Array

OUTPUT = "output"
"""The kind of an output of the whole model."""


@dataclass(frozen=True, eq=False)
class LayerOutput:
    """The output of one layer on one side.

    Attributes:
        name: of the layer, as it is shown.
        kind: its class or operator.
        keys: for pairing with an output of the other side, the surest first.
        handle: by which the side finds it.
        tensor: equal for two points that are the same tensor.
        elements: how many numbers it holds, if that is known.
        exact: its partner must have the same shape. Otherwise another shape means that the exporter
            has merged operators of one module into another.
        weights: the layer has some.
        by_channel: each channel (axis 1) may have been multiplied by a factor of its own.
        shift: a constant that was subtracted from it, and that the side adds again.
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
    """The differences by design of one side, since the other side has BatchNorms folded.

    Attributes:
        interior: tensors between a BatchNorm and what took it up, which differ.
        taken_up: by the point of a BatchNorm that of the layer in front of it, which took up that
            BatchNorm and nothing else: on the other side it computes what the BatchNorm does here.
    """

    interior: frozenset[Hashable] = frozenset()
    taken_up: dict[LayerOutput, LayerOutput] = field(default_factory=dict)


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
    points: Sequence[LayerOutput]
    tensors: dict[str, tuple[int, ...]]

    def folds(self, other: Side) -> Folds:
        """The differences by design, for BatchNorms that ``other`` has folded."""

    def run(self, points: Sequence[LayerOutput]) -> Iterator[list[Array]]:
        """The values of some points, for every feed in turn.

        Raises:
            MeasureError, ExportError: it does not run on these inputs.
        """
