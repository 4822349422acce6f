"""Finds the runtimes of other packages, by the entry point group ``deployfold.runtimes``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from deployfold.util.plugins import Plugin, load_plugins

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
    for plugin in load_plugins(GROUP):
        refusal = _refusal(plugin, (*built_in, *found))
        if refusal is None:
            found.append(plugin.item)
        else:
            broken.append(Broken(plugin.name, refusal))
    return tuple(found), tuple(broken)


def _refusal(plugin: Plugin, taken: Sequence[Runtime]) -> str | None:
    """Why the runtime cannot be used; ``None`` if it can."""
    where, runtime = plugin.where, plugin.item
    if plugin.problem is not None:
        return f"{where} cannot be imported: {plugin.problem}."
    if not isinstance(runtime, Runtime):
        return f"{where} is a {type(runtime).__name__}, not a deployfold Runtime."
    for other in taken:
        if other.key == runtime.key:
            return f"{where} has the key {runtime.key!r}, which {other.title} already has."
        if clash := set(other.suffixes) & set(runtime.suffixes):
            return f"{where} opens {min(clash)} files, which {other.title} already opens."
    return None
