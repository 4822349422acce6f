"""The fold rules: one file each, tried in the order of :data:`RULES`."""

from __future__ import annotations

from importlib.metadata import entry_points

from deployfold.errors import FoldError

from .into_consumers import IntoConsumers
from .into_neighbours import IntoNeighbours
from .into_producer import IntoProducers
from .merge_branches import MergeBranches
from .rule import Rule
from .scale_of_input import ScaleOfInput

RULES: tuple[Rule, ...] = (
    IntoProducers(),
    IntoConsumers(),
    MergeBranches(),
    IntoNeighbours(),
    ScaleOfInput(),
)
"""Each is tried when those before it find nothing more: a branch that is merged takes its sum
with it, so the neighbours come later. The last leaves a part, so it comes after all others."""

GROUP = "deployfold.fold_rules"
"""The group of entry points by which other packages add rules, each the class of one."""


def all_rules() -> tuple[Rule, ...]:
    """The rules of deployfold and, after them, those of other installed packages.

    Raises:
        FoldError: such a package fails to load.
    """
    found: list[Rule] = []
    for point in entry_points(group=GROUP):
        try:
            found.append(point.load()())
        except Exception as error:
            raise FoldError(
                f"The fold rule {point.name} ({point.value}) cannot be loaded: "
                f"{type(error).__name__}: {error}",
                hint="Uninstall or update the package that brings it.",
            ) from error
    return (*RULES, *found)
