"""Objects that other installed packages add to deployfold through entry points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from deployfold.errors import one_line


@dataclass(frozen=True)
class Plugin:
    """The object of one entry point.

    Attributes:
        name: the entry point's name.
        where: its module and object, and the package that brings it.
        item: the object; ``None`` if there is a ``problem``.
        problem: why the object cannot be loaded, in one line; ``None`` if it can.
    """

    name: str
    where: str
    item: Any
    problem: str | None = None


def load_plugins(group: str, make: Callable[[Any], Any] = lambda item: item) -> tuple[Plugin, ...]:
    """Load every object in a group of entry points, in the order of their names.

    Args:
        group: the group's name, such as ``deployfold.runtimes``.
        make: makes the ``item`` of the entry point's object.
    """
    found = []
    for point in sorted(entry_points(group=group), key=lambda one: (one.name, one.value)):
        where = f"{point.value} of {point.dist.name}" if point.dist is not None else point.value
        try:
            found.append(Plugin(point.name, where, make(point.load())))
        except Exception as error:  # the module of another package can run any code
            problem = f"{type(error).__name__}: {one_line(error)}"
            found.append(Plugin(point.name, where, None, problem))
    return tuple(found)
