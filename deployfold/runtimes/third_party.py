"""Finds the runtimes of other packages, by the entry point group ``deployfold.runtimes``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from .runtime import Runtime

GROUP = "deployfold.runtimes"


@dataclass(frozen=True)
class Broken:
    """A third-party runtime that cannot be used: its entry point's name, and the reason."""

    name: str
    reason: str


@lru_cache(maxsize=1)
def third_party_runtimes(
    built_in: tuple[Runtime, ...],
) -> tuple[tuple[Runtime, ...], tuple[Broken, ...]]:
    """The runtimes of installed packages, in the order of their names, and the broken ones.

    A broken runtime is left out, so that one package cannot break every command. A runtime is
    broken if its module cannot be imported, if its object is not a :class:`.runtime.Runtime`, or if
    another runtime already has its key or suffix.
    """
    found: list[Runtime] = []
    broken: list[Broken] = []
    for point in sorted(entry_points(group=GROUP), key=lambda one: (one.name, one.value)):
        outcome = _load(point, (*built_in, *found))
        if isinstance(outcome, Runtime):
            found.append(outcome)
        else:
            broken.append(Broken(point.name, outcome))
    return tuple(found), tuple(broken)


def _load(point: EntryPoint, taken: Sequence[Runtime]) -> Runtime | str:
    """The runtime, or the reason why it cannot be used."""
    where = f"{point.value} of {point.dist.name}" if point.dist is not None else point.value
    try:
        runtime = point.load()
    except Exception as error:
        text = " ".join(str(error).split()).rstrip(".")
        return f"{where} cannot be imported: {type(error).__name__}: {text}."
    if not isinstance(runtime, Runtime):
        return f"{where} is a {type(runtime).__name__}, not a deployfold Runtime."
    for other in taken:
        if other.key == runtime.key:
            return f"{where} has the key {runtime.key!r}, which {other.title} already has."
        if clash := set(other.suffixes) & set(runtime.suffixes):
            return f"{where} opens {min(clash)} files, which {other.title} already opens."
    return runtime
