"""Follows the numbers that code computes from sizes from function to function.

The numbers go through arguments, results, and whatever keeps them: attributes, globals, closures.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import CodeType

from torch import nn

from .flow import Flow, Names
from .kinds import HIDDEN, Kind
from .readers import Reader

_CALLS = 5  # the most functions through which a number is followed


class Flows:
    """The flows through all functions of a forward, and the numbers that outlive a function.

    ``kept`` holds what keeps such numbers, by bare names: attributes of any object, globals, and
    variables of enclosing functions.
    """

    def __init__(self, readers: Mapping[CodeType, Reader], model: nn.Module) -> None:
        self._readers, self._model = readers, model
        self._flows: dict[tuple[CodeType, frozenset[tuple[str, Kind]]], Flow] = {}
        self.kept: Names = {}
        self._givers: set[str] = set()  # the functions that return what is kept

    def all(self) -> list[Flow]:
        """The flows through all functions that read sizes, or get numbers computed from them."""
        before = None
        while before != (self.kept, self._givers):
            before = dict(self.kept), set(self._givers)
            self._flows.clear()
            for reader in self._reached() if self.kept else self._readers.values():
                flow = self.flow(reader, {}, _CALLS)
                if self.kept and flow and flow.returned & HIDDEN:
                    self._givers.add(reader.code.co_name)
        return list(self._flows.values())

    def _reached(self) -> list[Reader]:
        """The forwards of all modules, the functions that read sizes, and those that these call."""
        found = {one.code: one for one in map(Reader.of_module, self._model.modules()) if one}
        found.update(self._readers)
        latest = list(found.values())
        for _ in range(_CALLS):
            named = {one.code: one for reader in latest for one in reader.named()}
            latest = [one for code, one in named.items() if code not in found]
            found.update((one.code, one) for one in latest)
        return list(found.values())

    def inside(self, code: CodeType) -> list[Reader]:
        """The readers of the functions that a function defines."""
        inner = [item for item in code.co_consts if isinstance(item, CodeType)]
        own = [self._readers[item] for item in inner if item in self._readers]
        return own + [one for item in inner for one in self.inside(item)]

    def flow(self, reader: Reader, given: Mapping[str, Kind], deep: int) -> Flow | None:
        """The flow through a function with arguments of the kinds ``given``.

        The result is None if the function reads no size and gets none, or lies too deep.
        """
        names = {name: kind for name, kind in given.items() if kind}
        outer = (*reader.code.co_names, *reader.code.co_freevars)
        kept = any(name in self.kept or name in self._givers for name in outer)
        reads = kept or reader.code in self._readers
        if not deep or not (names or reads):
            return None
        key = (reader.code, frozenset(names.items()))
        if key not in self._flows:
            self._flows[key] = Flow(self, self._readers.get(reader.code, reader), names, deep)
            self._flows[key].follow()
        return self._flows[key]
