"""The fold rules: one file each, tried in the order of :data:`RULES`."""

from __future__ import annotations

from deployfold.errors import FoldError
from deployfold.util.plugins import load_plugins

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
    plugins = load_plugins(GROUP, lambda rule: rule())
    for one in plugins:
        if one.problem is not None:
            raise FoldError(
                f"The fold rule {one.name} ({one.where}) cannot be loaded: {one.problem}.",
                hint="Uninstall or update the package that brings it.",
            )
    return (*RULES, *(one.item for one in plugins))
