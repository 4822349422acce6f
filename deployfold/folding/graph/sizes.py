"""Sizes that report how a forward's Python code compares them.

A branch on a size, such as ``if x.shape[-1] > 512``, is seen by no operator. While a model is
traced, ``tensor.shape`` therefore holds :class:`Size` numbers, which are ints that tell a
:class:`Comparisons` the place and the answer of every comparison. A place that has given one answer
only may hide operators that no trace has seen.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from opcode import opname
from pathlib import Path
from typing import Any

import torch

_TORCH = str(Path(torch.__file__).parent)


@dataclass(frozen=True)
class Place:
    """A comparison in the code of a model.

    Attributes:
        line: the file and the line.
        ordered: the comparison is < or a relative of it; another size may be far away.
        direct: the code itself compares, and not a function that it calls, such as ``max``.
    """

    line: str
    ordered: bool
    direct: bool


class Comparisons:
    """The comparisons of sizes in code outside torch, over all passes so far."""

    def __init__(self) -> None:
        self._seen: defaultdict[Place, set[tuple[float, bool]]] = defaultdict(set)

    def one_sided(self) -> list[Place]:
        """The places where different sizes were compared and gave the same answer."""
        return [
            place
            for place, seen in self._seen.items()
            if len(seen) > 1 and len({answer for _, answer in seen}) == 1
        ]

    def note(self, size: float, answer: bool, *, ordered: bool) -> None:
        """Record a comparison by the code that called the size's operator."""
        frame = sys._getframe(2)
        code = frame.f_code
        if not code.co_filename.startswith(_TORCH):
            line = f"{Path(code.co_filename).name}:{frame.f_lineno}"
            direct = "CALL" not in opname[code.co_code[frame.f_lasti]]
            self._seen[Place(line, ordered, direct)].add((size, answer))

    def watched(self, result: Any) -> Any:
        """A shape, or one number, whose comparisons are recorded."""
        if isinstance(result, torch.Size):
            return torch.Size([self.watched(int(item)) for item in result])
        if type(result) not in (int, float):
            return result
        made = (Size if type(result) is int else Ratio)(result)
        made.comparisons = self
        return made


class Size(int):
    """An int that records its comparisons; the results of its arithmetic do so, too."""

    comparisons: Comparisons
    __hash__ = int.__hash__


class Ratio(float):
    """A float that records its comparisons; the results of its arithmetic do so, too."""

    comparisons: Comparisons
    __hash__ = float.__hash__


def _computing(compute: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Size | Ratio, *others: Any) -> Any:
        return self.comparisons.watched(compute(self, *others))

    return method


def _answering(answer_of: Callable[..., Any], kind: str) -> Callable[..., Any]:
    def method(self: Size | Ratio, *others: Any) -> Any:
        answer = answer_of(self, *others)
        # Sizes of two tensors usually grow together, so their equality has one answer for a reason.
        alike = kind == "equality" and isinstance(others[0], (Size, Ratio))
        if answer is not NotImplemented and not alike:
            self.comparisons.note(float(self), answer, ordered=kind == "order")
        return answer

    return method


_ARITHMETIC = """add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod neg ceil
    floor round""".split()
_ANSWERS = {"lt le gt ge": "order", "eq ne": "equality", "bool": "truth"}

for _class in (Size, Ratio):
    for _name in (f"__{name}__" for name in _ARITHMETIC):
        setattr(_class, _name, _computing(getattr(_class, _name)))
    for _names, _kind in _ANSWERS.items():
        for _name in (f"__{name}__" for name in _names.split()):
            setattr(_class, _name, _answering(getattr(_class, _name), _kind))
