"""Scales and offsets of classes of channels: a union with ratios, and sparse linear equations.

Every channel ``v`` of a tensor may become ``S * (v + u)``. Channels that have to get the same ``S``
form a scale class, and those that have to get the same ``u`` an offset class. Written this way the
two are independent of each other:

* operators that carry a map along put the channels of their input and output into one class;
* of a sum, all ends have one scale, and ``u_output = sum of coefficient * u_input``;
* an affine layer ``y = a * x + b`` goes if ``S_x = a * S_y`` and ``a * u_x - u_y = b``.

The scales are solved by a union of classes with ratios, in nearly linear time. The offsets leave a
choice at every sum. A change of one class is balanced at each of its equations by another one, the
one with the fewest equations first; where equations form cycles, a small system is solved instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

_TOLERANCE = 1e-12
"""Relative; ratios that should be equal differ by rounding where they are multiplied up."""

_STEPS = 4_000
"""Classes that one search for a balance looks at."""

_EQUATIONS = 48
"""The largest system around one channel that is solved as a whole where equations form cycles."""


def components(count: int, pairs: Sequence[tuple[Indices, Indices]]) -> Indices:
    """For each of ``count`` items, the least item that ``pairs`` connect it with."""
    parent = np.arange(count)
    if not pairs:
        return parent
    first = np.concatenate([pair[0] for pair in pairs])
    second = np.concatenate([pair[1] for pair in pairs])
    while True:
        one, other = parent[first], parent[second]
        if bool((one == other).all()):
            return parent
        least = np.minimum(one, other)
        np.minimum.at(parent, one, least)
        np.minimum.at(parent, other, least)
        while bool((parent != parent[parent]).any()):
            parent = parent[parent]


class Scales:
    """The scale ``S`` of every class: unions of classes whose ratio is known, which can be undone.

    Args:
        count: the number of classes; at first each stands for itself.
        fixed: how many reasons there are for each to keep the scale 1.
        positive: which have to keep their sign.
    """

    def __init__(self, count: int, fixed: Indices, positive: npt.NDArray[np.bool_]) -> None:
        self._parent = list(range(count))
        self._ratio = [1.0] * count  # to the parent
        self._size = [1] * count
        self._sign: list[int] = positive.astype(
            int
        ).tolist()  # that the root's factor has to have; 0: any
        self._reference = list(range(count))  # the class that keeps the scale 1
        self._log: list[tuple[int, int, int, int, int]] = []
        self.fixed: list[int] = fixed.tolist()

    def find(self, item: int) -> tuple[int, float]:
        """The root of a class, and the class's scale over the root's."""
        ratio = 1.0
        while self._parent[item] != item:
            ratio *= self._ratio[item]
            item = self._parent[item]
        return item, ratio

    def scale(self, item: int) -> float:
        """The scale of a class, with all that nothing determines left at 1."""
        root, ratio = self.find(item)
        reference = self.find(self._reference[root])[1]
        # The reference has scale 1, or -1 where its sign has to turn.
        turned = self._sign[root] and self._sign[root] * reference < 0
        return -ratio / reference if turned else ratio / reference

    def tie(self, first: int, second: int, ratio: float, own: Callable[[int], int]) -> bool:
        """Let ``S_first = ratio * S_second``; whether that is possible.

        Args:
            own: of a root, how many of its reasons to be fixed do not count.
        """
        one, to_one = self.find(first)
        other, to_other = self.find(second)
        between = ratio * to_other / to_one  # S_one = between * S_other
        if one == other:
            return abs(between - 1) <= _TOLERANCE
        first_fixed, second_fixed = self.fixed[one] > own(one), self.fixed[other] > own(other)
        if first_fixed and second_fixed:
            scale_one, scale_other = self.scale(one), self.scale(other)
            if abs(scale_one - between * scale_other) > _TOLERANCE * abs(scale_one):
                return False
        sign = self._needed_sign(other, second_fixed)
        if sign_of_one := self._needed_sign(one, first_fixed):
            wanted = sign_of_one * (1 if between > 0 else -1)
            if sign and sign != wanted:
                return False
            sign = wanted
        reference = self._reference[one if first_fixed else other]
        root, child = (other, one) if self._size[other] >= self._size[one] else (one, other)
        self._log.append((child, root, self._size[root], self._sign[root], self._reference[root]))
        self._parent[child] = root
        self._ratio[child] = between if child == one else 1 / between
        self._size[root] += self._size[child]
        self._sign[root] = sign if root == other else sign * (1 if between > 0 else -1)
        self._reference[root] = reference
        self.fixed[root] += self.fixed[child]
        return True

    def _needed_sign(self, root: int, fixed: bool) -> int:
        """The sign that the root's factor has to have; 0 for any."""
        if not fixed:
            return self._sign[root]
        return 1 if self.find(self._reference[root])[1] > 0 else -1

    def tied(self) -> set[int]:
        """The classes that are tied to others."""
        return {item for child, root, *_ in self._log for item in (child, root)}

    def mark(self) -> int:
        """The present state, for :meth:`undo`."""
        return len(self._log)

    def undo(self, mark: int) -> None:
        """Take every union after ``mark`` back."""
        while len(self._log) > mark:
            child, root, size, sign, reference = self._log.pop()
            self._parent[child], self._ratio[child] = child, 1.0
            self._size[root], self._sign[root], self._reference[root] = size, sign, reference
            self.fixed[root] -= self.fixed[child]


@dataclass(eq=False)
class Offsets:
    """The offset ``u`` of every class, and the equations that they satisfy.

    Attributes:
        fixed: how many reasons there are for each class to keep the offset 0.
        classes, coefficients: of each equation; the weighted offsets add up to its constant.
        equations_of: the equations of each class.
    """

    fixed: list[int]
    classes: list[tuple[int, ...]] = field(default_factory=list)
    coefficients: list[tuple[float, ...]] = field(default_factory=list)
    equations_of: dict[int, list[int]] = field(default_factory=dict)
    values: dict[int, float] = field(default_factory=dict)
    _log: list[tuple[int, float]] = field(default_factory=list)

    def mark(self) -> tuple[int, int]:
        """The present state, for :meth:`undo`."""
        return len(self.classes), len(self._log)

    def undo(self, mark: tuple[int, int]) -> None:
        """Take every equation and change after ``mark`` back."""
        while len(self.classes) > mark[0]:
            self.coefficients.pop()
            for item in self.classes.pop():
                self.equations_of[item].pop()
        while len(self._log) > mark[1]:
            item, before = self._log.pop()
            self.values[item] = before

    def add(self, classes: tuple[int, ...], coefficients: tuple[float, ...]) -> None:
        """Add an equation that the present offsets satisfy."""
        total: dict[int, float] = {}
        for item, coefficient in zip(classes, coefficients, strict=True):
            total[item] = total.get(item, 0.0) + coefficient
        total = {item: coefficient for item, coefficient in total.items() if coefficient}
        for item in total:
            self.equations_of.setdefault(item, []).append(len(self.classes))
        self.classes.append(tuple(total))
        self.coefficients.append(tuple(total.values()))

    def value(self, item: int) -> float:
        """The offset of a class."""
        return self.values.get(item, 0.0)

    def change(
        self, item: int, by: float, limit: float, own: Callable[[int], int]
    ) -> dict[int, float] | str:
        """Changes of classes that let ``item`` change ``by`` so much, or why there are none.

        Args:
            limit: the largest change that does not cost precision.
            own: of a class, how many of its reasons to be fixed do not count.
        """
        search = _Search(self, own)
        if search.balance(item, by, None):
            changes = search.changes
        elif search.steps > _STEPS:
            return f"more than {_STEPS} tensors are tied to it by sums"
        elif search.cycle:
            found = self._solved(item, by, own)
            if isinstance(found, str):
                return found
            changes = found
        else:
            return "every sum on the way leads to a tensor that cannot be shifted"
        if any(not abs(change) <= limit for change in changes.values()):
            return "the shifts would be so large that taking them off again costs precision"
        return changes

    def apply(self, changes: dict[int, float]) -> None:
        """Change the offsets."""
        for item, change in changes.items():
            self._log.append((item, self.value(item)))
            self.values[item] = self.value(item) + change

    def _solved(self, item: int, by: float, own: Callable[[int], int]) -> dict[int, float] | str:
        """The least changes that let ``item`` change, by the equations around it together."""
        unknown: dict[int, int] = {}
        equations: dict[int, None] = {}
        waiting = [item]
        while waiting:
            for equation in self.equations_of.get(waiting.pop(), ()):
                if equation in equations:
                    continue
                equations[equation] = None
                if len(equations) > _EQUATIONS:
                    return f"more than {_EQUATIONS} sums around it form cycles"
                for other in self.classes[equation]:
                    if other != item and other not in unknown and self.fixed[other] <= own(other):
                        unknown[other] = len(unknown)
                        waiting.append(other)
        matrix, wanted = np.zeros((len(equations), len(unknown))), np.zeros(len(equations))
        for row, equation in enumerate(equations):
            for other, coefficient in zip(
                self.classes[equation], self.coefficients[equation], strict=True
            ):
                if other == item:
                    wanted[row] -= coefficient * by
                elif other in unknown:
                    matrix[row, unknown[other]] += coefficient
        solution = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
        if np.abs(matrix @ solution - wanted).max(initial=0.0) > 1e-9 * abs(by):
            return "the sums around it leave no way to place its shift"
        return {item: by, **{other: float(solution[i]) for other, i in unknown.items()}}


@dataclass(eq=False)
class _Search:
    """One search for changes that balance each other in every equation."""

    offsets: Offsets
    own: Callable[[int], int]
    changes: dict[int, float] = field(default_factory=dict)
    steps: int = 0
    cycle: bool = False

    def balance(self, item: int, by: float, origin: int | None) -> bool:
        """Change ``item`` and, in each of its equations but ``origin``, another class.

        It works on a stack of its own: a chain of sums may be longer than Python recurses. Of each
        equation the class with the fewest equations is tried first; a class that fails is not
        tried again.
        """
        failed: set[int] = set()
        # Each frame: the class, its change, the equations still to balance, and for the one in
        # work its candidates.
        frames: list[tuple[int, list[tuple[int, list[tuple[int, float]]]]]] = []

        def enter(item: int, by: float, origin: int | None) -> bool:
            self.steps += 1
            if item in self.changes:
                self.cycle = True
                return False
            if item in failed or self.offsets.fixed[item] > self.own(item):
                return False
            self.changes[item] = by
            around = [e for e in self.offsets.equations_of.get(item, ()) if e != origin]
            frames.append((item, [(e, self._candidates(e, item, by)) for e in around]))
            return True

        if not enter(item, by, origin):
            return False
        while frames and self.steps <= _STEPS:
            item, waiting = frames[-1]
            if not waiting:
                frames.pop()
                if frames:
                    frames[-1][1].pop()  # its equation is balanced
                continue
            equation, candidates = waiting[-1]
            while candidates:
                other, change = candidates.pop()
                if enter(other, change, equation):
                    break
            else:
                self._give_up(frames, failed)
        return not frames and self.steps <= _STEPS and bool(self.changes)

    def _give_up(
        self,
        frames: list[tuple[int, list[tuple[int, list[tuple[int, float]]]]]],
        failed: set[int],
    ) -> None:
        """The class in work cannot be changed; its parent tries another."""
        item, _ = frames.pop()
        failed.add(item)
        last: int | None = None
        while last != item:  # with what was changed to balance its other equations
            last, _ = self.changes.popitem()

    def _candidates(self, equation: int, item: int, by: float) -> list[tuple[int, float]]:
        """The other classes of an equation, each with its change; the best to try is last."""
        coefficients = dict(
            zip(self.offsets.classes[equation], self.offsets.coefficients[equation], strict=True)
        )
        own = coefficients.pop(item)
        others = [(other, -own * by / coefficient) for other, coefficient in coefficients.items()]
        return sorted(
            others, key=lambda one: len(self.offsets.equations_of.get(one[0], ())), reverse=True
        )
