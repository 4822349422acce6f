"""The fold rules: one file each, tried in the order of :data:`RULES`."""

from __future__ import annotations

from importlib.metadata import entry_points

from deployfold.errors import FoldError

from .at_each_place import AtEachPlace
from .into_consumers import IntoConsumers
from .into_neighbours import IntoNeighbours
from .into_producer import IntoProducers
from .merge_branches import MergeBranches
from .rule import Rule
from .scale_of_input import ScaleOfInput

RULES: tuple[Rule, ...] = (
    IntoProducers(),
    IntoConsumers(),
    AtEachPlace(),
    MergeBranches(),
    IntoNeighbours(),
    ScaleOfInput(),
)
"""The fold rules in order: a rule is tried once the rules before it find nothing more.

``IntoNeighbours`` follows ``MergeBranches`` because merging a branch removes the sum as well.
``ScaleOfInput`` is last because it leaves one addition behind.
"""

GROUP = "deployfold.fold_rules"
"""The entry point group through which other packages add rules; each entry names a rule class."""


def all_rules() -> tuple[Rule, ...]:
    """The rules of deployfold, followed by the rules of other installed packages.

    Raises:
        FoldError: the rule of another package fails to load.
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
