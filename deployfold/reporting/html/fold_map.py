"""The fold map: the model's modules as a tree, and at its leaves what became of each BatchNorm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from deployfold.reporting import text
from deployfold.reporting.fold import FoldSummary

OPEN = 80
"""BatchNorms up to which every group of the tree is shown open."""


@dataclass(frozen=True)
class Leaf:
    """One BatchNorm, scale or branch: whether it is folded, and into what by which rule, or why
    it was left."""

    name: str
    folded: bool
    about: str


@dataclass
class Group:
    """A module with BatchNorms below it; ``name`` may be of several levels, as in ``layer1.0``."""

    name: str
    groups: dict[str, Group] = field(default_factory=dict)
    leaves: list[Leaf] = field(default_factory=list)

    def all(self) -> Iterator[Leaf]:
        """Every leaf below the group."""
        yield from self.leaves
        for group in self.groups.values():
            yield from group.all()

    @property
    def left(self) -> int:
        """How many of them were left."""
        return sum(not leaf.folded for leaf in self.all())

    @property
    def count(self) -> str:
        """``3 folded``, or ``2 of 3 folded``."""
        total = sum(1 for _ in self.all())
        return f"{total - self.left} of {total} folded" if self.left else f"{total} folded"


def fold_map(fold: FoldSummary) -> Group:
    """The tree; a group with one member is joined with it."""
    root = Group("")
    for one in fold.left:
        _place(root, one.name, folded=False, about=one.reason)
    for done in fold.folded:
        into = f"{done.into} ({done.rule})" if done.into else done.rule
        _place(root, done.name, folded=True, about=f"folded into {into}")
    return _joined(root)


def _place(root: Group, name: str, *, folded: bool, about: str) -> None:
    *path, last = text.clean(name).split(".")
    group = root
    for part in path:
        group = group.groups.setdefault(part, Group(part))
    group.leaves.append(Leaf(last or "BatchNorm", folded, text.clean(about)))


def _joined(group: Group) -> Group:
    """The group without groups of one member."""
    made = Group(group.name, leaves=list(group.leaves))
    for below in map(_joined, group.groups.values()):
        if len(below.leaves) + len(below.groups) > 1:
            made.groups[below.name] = below
        for leaf in below.leaves if below.name not in made.groups else ():
            made.leaves.append(replace(leaf, name=f"{below.name}.{leaf.name}"))
        for only in below.groups.values() if below.name not in made.groups else ():
            only.name = f"{below.name}.{only.name}"
            made.groups[only.name] = only
    return made
