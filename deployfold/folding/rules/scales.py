"""The scales of classes of channels: a union-find over classes whose ratios are known.

Every channel ``v`` of a tensor may become ``S * (v + u)``. Channels that must get the same scale
``S`` form a scale class. Channels that must get the same offset ``u`` form an offset class
(:mod:`.offsets`). In this form scales and offsets are independent of each other:

* an operator that carries a map along puts the channels of its input and output into one class;
* all inputs and the output of a sum have one scale, and
  ``u_output = sum of coefficient * u_input``;
* an affine layer ``y = a * x + b`` can go if ``S_x = a * S_y`` and ``a * u_x - u_y = b``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

_TOLERANCE = 1e-12
"""Relative tolerance between equal ratios, which differ by the rounding of their products."""


def components(count: int, pairs: Sequence[tuple[Indices, Indices]]) -> Indices:
    """For each of ``count`` items, the least item that ``pairs`` connect the item with."""
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
    """The scale ``S`` of every class: a union-find of classes with known ratios, with undo.

    Args:
        fixed: for each class, the number of reasons to keep the scale 1; shape ``(count,)``.
        positive: the classes that must keep their sign, shape ``(count,)``.
    """

    def __init__(self, count: int, fixed: Indices, positive: npt.NDArray[np.bool_]) -> None:
        self._parent = list(range(count))
        self._ratio = [1.0] * count  # the scale over the parent's scale
        self._size = [1] * count
        self._sign: list[int] = positive.astype(
            int
        ).tolist()  # the sign that the root's factor must have; 0 for any
        self._reference = list(range(count))  # the class that keeps the scale 1
        self._log: list[tuple[int, int, int, int, int]] = []
        self.fixed: list[int] = fixed.tolist()

    def find(self, item: int) -> tuple[int, float]:
        """The root of a class, and the class's scale divided by the root's scale."""
        ratio = 1.0
        while self._parent[item] != item:
            ratio *= self._ratio[item]
            item = self._parent[item]
        return item, ratio

    def scale(self, item: int) -> float:
        """The scale of a class; a scale that nothing determines is 1."""
        root, ratio = self.find(item)
        reference = self.find(self._reference[root])[1]
        # The reference has scale 1, or -1 where its sign must change.
        turned = self._sign[root] and self._sign[root] * reference < 0
        return -ratio / reference if turned else ratio / reference

    def tie(self, first: int, second: int, ratio: float, own: Callable[[int], int]) -> bool:
        """Require ``S_first = ratio * S_second``; return whether that is possible.

        Args:
            own: returns how many of a root's reasons to be fixed do not count.
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
        """The sign that the root's factor must have; 0 for any."""
        if not fixed:
            return self._sign[root]
        return 1 if self.find(self._reference[root])[1] > 0 else -1

    def tied(self) -> set[int]:
        """The classes that are tied to others."""
        return {item for child, root, *_ in self._log for item in (child, root)}

    def mark(self) -> int:
        """Return the present state, for :meth:`undo`."""
        return len(self._log)

    def undo(self, mark: int) -> None:
        """Revert every union made after ``mark``."""
        while len(self._log) > mark:
            child, root, size, sign, reference = self._log.pop()
            self._parent[child], self._ratio[child] = child, 1.0
            self._size[root], self._sign[root], self._reference[root] = size, sign, reference
            self.fixed[root] -= self.fixed[child]
