"""The offsets of classes of channels: sparse linear equations, one for each channel of a sum.

A sum leaves open which of its tensors takes an offset. Where one class changes, another class
balances the change in each of the equations; the class with the fewest equations is tried first.
Where equations form cycles, a small linear system is solved instead. :mod:`.scales` defines
offsets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

_STEPS = 4_000
"""The most classes that one search for a balance visits."""

_EQUATIONS = 48
"""The largest system around one channel that is solved as a whole where equations form cycles."""


@dataclass(eq=False)
class Offsets:
    """The offset ``u`` of every class, and the equations that they satisfy.

    Attributes:
        fixed: for each class, the number of reasons to keep the offset 0.
        classes, coefficients: of each equation; the weighted offsets add up to a constant.
        equations_of: the equations of each class, by index.
        values: the offsets that are not zero.
    """

    fixed: list[int]
    classes: list[tuple[int, ...]] = field(default_factory=list)
    coefficients: list[tuple[float, ...]] = field(default_factory=list)
    equations_of: dict[int, list[int]] = field(default_factory=dict)
    values: dict[int, float] = field(default_factory=dict)
    _log: list[tuple[int, float]] = field(default_factory=list)

    def mark(self) -> tuple[int, int]:
        """Return the present state, for :meth:`undo`."""
        return len(self.classes), len(self._log)

    def undo(self, mark: tuple[int, int]) -> None:
        """Revert every equation and every change made after ``mark``."""
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
        """Find changes that let class ``item`` change by ``by``, or the reason why there are none.

        Args:
            limit: the largest change that does not cost precision.
            own: returns how many of a class's reasons to be fixed do not count.
        """
        search = _Search(self, own)
        if search.balance(item, by, None):
            changes = search.changes
        elif search.steps > _STEPS:
            return f"sums connect more than {_STEPS} tensors with it"
        elif search.cycle:
            found = self._solved(item, by, own)
            if isinstance(found, str):
                return found
            changes = found
        else:
            return "every tensor that could take the shift must stay unchanged"
        if any(not abs(change) <= limit for change in changes.values()):
            return "the shifts would be so large that subtracting them later costs precision"
        return changes

    def apply(self, changes: dict[int, float]) -> None:
        """Add ``changes`` to the offsets."""
        for item, change in changes.items():
            self._log.append((item, self.value(item)))
            self.values[item] = self.value(item) + change

    def _solved(self, item: int, by: float, own: Callable[[int], int]) -> dict[int, float] | str:
        """Solve the equations around ``item`` together for the least changes that let it change."""
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
    """A depth-first search for changes that balance each other in every equation."""

    offsets: Offsets
    own: Callable[[int], int]
    changes: dict[int, float] = field(default_factory=dict)
    steps: int = 0
    cycle: bool = False

    def balance(self, item: int, by: float, origin: int | None) -> bool:
        """Change ``item`` and, in each of its equations except ``origin``, one other class.

        An explicit stack replaces recursion, because a chain of sums may exceed Python's recursion
        limit. In each equation the class with the fewest equations is tried first. A class that
        fails is not tried again.
        """
        failed: set[int] = set()
        # Each frame holds a class and the equations still to balance, each with the candidates
        # left to try.
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
        """Undo the changes of the top class, which cannot change; its parent then tries another."""
        item, _ = frames.pop()
        failed.add(item)
        last: int | None = None
        while last != item:  # and the changes that balanced its other equations
            last, _ = self.changes.popitem()

    def _candidates(self, equation: int, item: int, by: float) -> list[tuple[int, float]]:
        """The other classes of an equation, each with its change; the best candidate is last."""
        coefficients = dict(
            zip(self.offsets.classes[equation], self.offsets.coefficients[equation], strict=True)
        )
        own = coefficients.pop(item)
        others = [(other, -own * by / coefficient) for other, coefficient in coefficients.items()]
        return sorted(
            others, key=lambda one: len(self.offsets.equations_of.get(one[0], ())), reverse=True
        )
