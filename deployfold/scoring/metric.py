"""The record of a task metric: what a model's outputs are worth for its task, as numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from deployfold.util.arrays import Array

Kind: TypeAlias = Literal["classes", "masks", "boxes"]


class Tally(Protocol):
    """Takes the outputs of one model, inference by inference, and gives its numbers at the end."""

    def add(
        self, outputs: Sequence[Array], labels: Sequence[Any], reference: Sequence[Array]
    ) -> None:
        """Add one inference.

        Args:
            outputs: the model's outputs in their order, with the batch axis.
            labels: the label of each sample of the batch; empty without labels.
            reference: the original model's outputs on the same samples.

        Raises:
            UsageError: the outputs are not of the kind that the metric takes.
        """

    def result(self) -> dict[str, float]:
        """The numbers of all inferences by name; more is better."""


@dataclass(frozen=True)
class TaskMetric:
    """A task metric that ``--metric`` takes.

    Attributes:
        begin: a new tally, for one model.
        takes: the kind of labels; ``any`` also takes none, and ``none`` reads none.
        keys: the names of the numbers; ``None`` where only the result tells.
    """

    name: str
    begin: Callable[[], Tally]
    takes: Kind | Literal["any", "none"]
    keys: tuple[str, ...] | None = None
