"""Sizes that report how a forward's Python code compares them.

A branch on a size, such as ``if x.shape[-1] > 512``, is seen by no operator. While a model is
traced, ``tensor.shape`` therefore holds :class:`Size` numbers, which are ints that tell a
:class:`Comparisons` the place and the answer of every comparison. A place that has given one answer
only may hide operators that no trace has seen.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from opcode import opname
from pathlib import Path
from typing import Any

import torch

from .lines import TORCH, SizeLines

_WIDE = 8
"""A larger range of numbers than the strides of layers give a rest, as in ``max(0, -size % 4)``."""


@dataclass(frozen=True)
class Place:
    """A comparison in the code of a model.

    Attributes:
        line: the file and the line.
        position: the instruction, because one line may compare several times.
        ordered: the comparison is < or a relative of it; another size may be far away.
        direct: the code itself compares, and not a function that it calls, such as ``max``.
    """

    line: str
    position: int
    ordered: bool
    direct: bool


@dataclass(frozen=True)
class Side:
    """A comparison at ``place``: how often the pass was there before, and the other number."""

    place: Place
    turn: int
    number: float


@dataclass(frozen=True)
class _Answer:
    """One answer of a comparison; ``origin`` stands for the sizes that were compared.

    ``above_zero`` is the number that was computed from sizes, where it was compared with 0.
    """

    turn: int
    number: float
    origin: int
    answer: bool
    above_zero: float | None


class Comparisons:
    """The comparisons of sizes in code outside torch, over all passes so far.

    Two sizes usually grow together, and their equality then has one answer for a reason. It has
    none where one size never changed, or where a *bound* was not reached: ``x[..., :64]`` and
    ``min(x.shape[-1], 64)`` are as long as ``x`` up to 64.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._seen: defaultdict[Place, set[_Answer]] = defaultdict(set)
        self._pairs: defaultdict[tuple[Place, int], set[tuple[float, float]]] = defaultdict(set)
        self._bounds: defaultdict[Hashable, dict[float, bool]] = defaultdict(dict)
        self._turns: Counter[Hashable] = Counter()
        self._passes = 0
        self.lines = SizeLines(model)

    def begin(self) -> None:
        """Begin another pass."""
        self._turns.clear()
        self._passes += 1
        self.lines.begin()

    @property
    def any(self) -> bool:
        """Whether the code has compared a size at all."""
        return bool(self._seen)

    def one_sided(self) -> set[Side]:
        """The comparisons that the sizes of several passes answered alike."""
        sides = {side for place, seen in self._seen.items() for side in _one_sided(place, seen)}
        unreached = any(len(seen) > 1 and not any(seen.values()) for seen in self._bounds.values())
        bounded = unreached or any(not side.place.direct for side in sides)
        for (place, turn), pairs in self._pairs.items():
            varied = [len(set(numbers)) > 1 for numbers in zip(*pairs, strict=True)]
            answers = {one == other for one, other in pairs}
            unproved = (bounded and answers == {True}) if all(varied) else any(varied)
            if len(answers) == 1 and unproved:
                sides.add(Side(replace(place, ordered=all(varied)), turn, 0.0))
        return sides

    @property
    def any_pair(self) -> bool:
        """Whether the code has asked whether two sizes are equal."""
        return bool(self._pairs)

    def hidden(self) -> set[str]:
        """The lines that bound a number from below by 0, as ``max(0, size - 100)`` does.

        Only those count where all sizes tried gave 0, or none, though the number varied widely.
        """
        lines = set()
        for place, seen in self._seen.items():
            numbers = [one.above_zero for one in seen if one.above_zero is not None]
            wide = bool(numbers) and max(numbers) - min(numbers) > _WIDE
            if not place.direct and wide and len({one.answer for one in seen}) == 1:
                lines.add(place.line)
        return lines

    def note(self, size: Size | Ratio, answer: bool, other: Any, *, ordered: bool) -> None:
        """Record a comparison by the code that called the size's operator."""
        frame = sys._getframe(2)
        code = frame.f_code
        if not code.co_filename.startswith(TORCH):
            line = f"{Path(code.co_filename).name}:{frame.f_lineno}"
            pair = not ordered and isinstance(other, (Size, Ratio))
            direct = pair or "CALL" not in opname[code.co_code[frame.f_lasti]]
            place = Place(line, frame.f_lasti, ordered, direct)
            if pair:
                self._pairs[place, self._turns[place]].add((float(size), float(other)))
                self._turns[place] += 1
                return
            number = float(other) if type(other) in (int, float) else 0.0
            above = float(size) if type(other) is int and other == 0 else None
            turn = self._turns[place]
            self._seen[place].add(_Answer(turn, number, size.origin, answer, above))
            self._turns[place] += 1

    def note_bound(self, length: float, bound: float) -> None:
        """Record that code cuts a length, or divides a size, which shows above a bound only."""
        frame = sys._getframe(2)
        place = (frame.f_code, frame.f_lasti, bound)
        self._bounds[place, self._turns[place]][float(length)] = float(length) > bound
        self._turns[place] += 1

    def watched(self, result: Any, origin: int | None = None) -> Any:
        """A shape, or one number, whose comparisons are recorded.

        ``origin`` stands for the sizes that the number was computed from; None: it is a size.
        """
        if isinstance(result, torch.Size):
            return torch.Size([self.watched(int(item)) for item in result])
        if type(result) is tuple:  # of divmod
            return tuple(self.watched(item, origin) for item in result)
        if type(result) not in (int, float):
            return result
        made = (Size if type(result) is int else Ratio)(result)
        # Of an empty slice, a size of zero does not show that the whole has another size.
        own = int(result) or -self._passes
        made.comparisons, made.origin = self, own if origin is None else origin
        return made


def _one_sided(place: Place, seen: set[_Answer]) -> list[Side]:
    for number in (True, False):  # a number computed from the size is another one in each pass
        groups: defaultdict[Side, set[_Answer]] = defaultdict(set)
        for one in seen:
            groups[Side(place, one.turn, one.number * number)].add(one)
        several = {
            side: {one.answer for one in group}
            for side, group in groups.items()
            if len({one.origin for one in group}) > 1
        }
        if several:
            return [side for side, answers in several.items() if len(answers) == 1]
    return []


class Size(int):
    """An int that records its comparisons; the results of its arithmetic do so, too."""

    comparisons: Comparisons
    origin: int

    def __hash__(self) -> int:
        self.comparisons.lines.note("lookup")
        return int.__hash__(self)


class Ratio(float):
    """A float that records its comparisons; the results of its arithmetic do so, too."""

    comparisons: Comparisons
    origin: int
    __hash__ = float.__hash__


def _computing(name: str, compute: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Size | Ratio, *others: Any) -> Any:
        origins = [getattr(other, "origin", 0) for other in others]
        if name in ("__floordiv__", "__mod__", "__rshift__") and type(others[0]) is int:
            least = 1 << others[0] if name == "__rshift__" else others[0]
            self.comparisons.note_bound(self, least - 1)
        return self.comparisons.watched(compute(self, *others), hash((self.origin, *origins)))

    return method


def _answering(answer_of: Callable[..., Any], kind: str) -> Callable[..., Any]:
    def method(self: Size | Ratio, *others: Any) -> Any:
        answer = answer_of(self, *others)
        if answer is not NotImplemented:
            other = others[0] if others else None
            self.comparisons.note(self, answer, other, ordered=kind == "order")
        return answer

    return method


_ARITHMETIC = """add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod divmod
    rdivmod pow rpow neg pos abs ceil floor trunc round""".split()
_BITS = "and rand or ror xor rxor lshift rlshift rshift rrshift invert".split()
_ANSWERS = {"lt le gt ge": "order", "eq ne": "equality", "bool": "truth"}

for _class in (Size, Ratio):
    for _name in (f"__{name}__" for name in _ARITHMETIC + _BITS * (_class is Size)):
        setattr(_class, _name, _computing(_name, getattr(_class, _name)))
    for _names, _kind in _ANSWERS.items():
        for _name in (f"__{name}__" for name in _names.split()):
            setattr(_class, _name, _answering(getattr(_class, _name), _kind))
