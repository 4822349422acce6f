"""Follows the numbers that code computes from sizes from function to function."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from types import CodeType

from .flow import Flow, Names
from .kinds import Kind
from .readers import Reader

_CALLS = 5  # the most functions through which a number is followed


class Flows:
    """The flows through all functions of a forward, and the numbers that modules keep.

    ``attributes`` holds, for each class, the attributes in which its methods keep such numbers.
    """

    def __init__(self, readers: Mapping[CodeType, Reader]) -> None:
        self._readers = readers
        self._flows: dict[tuple[CodeType, frozenset[tuple[str, Kind]]], Flow] = {}
        self.attributes: defaultdict[type, Names] = defaultdict(dict)

    def all(self) -> list[Flow]:
        """The flows through all functions that read sizes, or get numbers computed from them."""
        before = None
        while before != repr(self.attributes):
            before = repr(self.attributes)
            self._flows.clear()
            for reader in list(self._readers.values()):
                self.flow(reader, {}, _CALLS)
                for method in reader.methods(self.attributes.get(type(reader.owner), ())):
                    self.flow(method, {}, _CALLS)
        return list(self._flows.values())

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
        kept = self.attributes.get(type(reader.owner), {})
        reads = reader.code in self._readers or any(name in kept for name in reader.code.co_names)
        if not deep or not (names or reads):
            return None
        key = (reader.code, frozenset(names.items()))
        if key not in self._flows:
            self._flows[key] = Flow(self, self._readers.get(reader.code, reader), names, deep)
            self._flows[key].follow()
        return self._flows[key]
