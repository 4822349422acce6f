"""The protocol of a side of a layer-by-layer comparison, and the records of its layers."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from deployfold.util.arrays import Array

OUTPUT = "output"
"""The kind of an output of the whole model."""


@dataclass(frozen=True, eq=False)
class LayerOutput:
    """The output of one layer on one side.

    Attributes:
        name: the name of the layer for users.
        kind: the layer's class or operator.
        keys: keys for pairing with an output of the other side, the most reliable first.
        handle: the side's own reference to the output.
        tensor: an identity that is equal for two points of the same tensor.
        elements: the number of elements, if known.
        exact: whether the other output must have the same shape. If not, another shape means that
            the exporter merged operators of several modules.
        by_channel: whether each channel (axis 1) may have its own factor.
        shift: a constant that was subtracted from the output, and that the side adds again.
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


def model_output(
    name: str, index: int, handle: Hashable, tensor: Hashable, elements: int | None
) -> LayerOutput:
    """The point of an output of the whole model."""
    return LayerOutput(name, OUTPUT, (("output", index),), handle, tensor, elements, exact=True)


@dataclass(frozen=True, eq=False)
class Folds:
    """The differences by design of one side, because the other side has BatchNorms folded.

    Attributes:
        interior: the tensors between a BatchNorm and the layer that takes it up.
        taken_up: for the point of a BatchNorm, the point of the layer before it, if the layer takes
            up this BatchNorm only. On the other side, that layer computes the BatchNorm's output.
    """

    interior: frozenset[Hashable] = frozenset()
    taken_up: dict[LayerOutput, LayerOutput] = field(default_factory=dict)


class Side(Protocol):
    """One of the two forms of a model.

    Attributes:
        name: the name of the file.
        precision: the precision, such as ``fp32`` or ``int8``.
        points: the outputs of the layers, in the order of execution.
        tensors: the shapes of weights and statistics, by qualified name.
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
            MeasureError, ExportError: the model does not run on these inputs.
        """
