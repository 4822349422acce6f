"""A required change of a tensor, ``x`` to ``scale * x + shift``, and its effect on neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deployfold.folding.algebra import Affine
from deployfold.folding.graph.graph import Value

from .links import NEVER_SHIFTED, Link
from .partial import NotSeparable, along, compact, like, merge, on_axis, varying_axes


@dataclass(frozen=True, eq=False)
class Change:
    """The change of a tensor ``x`` to ``scale * x + shift``.

    Attributes:
        scale: a partly known tensor of the value ``x``; NaN marks an element without readers.
        shift: a partly known tensor of the value ``x``.
        constant: the change has a shift, even if every number of the shift is zero.
    """

    scale: Tensor
    shift: Tensor
    constant: bool

    @classmethod
    def of_axis(cls, value: Value, axis: int, affine: Affine) -> Change:
        """The change that applies ``affine`` to the channels on ``axis`` of ``value``."""
        scale, shift = on_axis(value, axis, affine.scale), on_axis(value, axis, affine.shift)
        return cls(compact(scale), compact(shift), affine.constant)

    @classmethod
    def none(cls, value: Value) -> Change:
        """The identity: ``value`` does not change."""
        return cls(like(value, 1.0), like(value, 0.0), constant=False)

    @property
    def shifts(self) -> bool:
        """Whether any shift differs from zero."""
        return bool(self.shift.nan_to_num().any())

    def without_shift(self) -> Change:
        """The same scale without a shift."""
        return Change(self.scale, torch.zeros_like(self.shift), constant=False)

    def affine(self, value: Value, axis: int) -> Affine:
        """The change of each channel on ``axis`` of ``value``; the identity for unread channels.

        Raises:
            NotSeparable: the change varies along another axis.
        """
        rows = []
        for numbers, unread in ((self.scale, 1.0), (self.shift, 0.0)):
            row = along(numbers, axis).nan_to_num(nan=unread)
            rows.append(row.expand(value.shape[axis]).clone())
        return Affine(rows[0], rows[1], self.constant)

    def only_along(self, axis: int) -> bool:
        """Whether the change varies along no axis other than ``axis``."""
        return all(varying_axes(item) in ([], [axis]) for item in (self.scale, self.shift))

    def check_passes(self, link: Link) -> None:
        """Raise an error if the change cannot be carried through ``link``.

        Raises:
            NotSeparable: the operator needs a positive scale or a shift of zero; with the reason.
        """
        if link.positive and bool((self.scale < 0).any()):
            raise NotSeparable(link.positive)
        if link.no_shift and self.shifts:
            raise NotSeparable(link.no_shift)

    def up(self, link: Link, index: int, *, shift: bool = True) -> Change:
        """The change of an input that gives the output of ``link`` this change.

        The constant ``k`` of the operator stays. To turn the output into ``scale * (x + k) +
        shift``, ``x`` must become ``scale * x + (scale - 1) * k + shift``.

        Args:
            shift: whether this input takes the shift; exactly one input of a sum must take it.

        Raises:
            NotSeparable: no change of the input gives the output this change.
        """
        source, route, coefficient = link.inputs[index]
        self.check_passes(link)
        if link.drops_shift and self.shifts:
            raise NotSeparable(NEVER_SHIFTED)
        scale = compact(route.up(self.scale))
        if not shift:
            return Change(scale, like(source, 0.0), constant=False)
        added, constant = self.shift, self.constant
        if link.constant != 0.0 and bool((self.scale != 1).any()):
            added = added + (self.scale - 1) * link.constant_numbers()
            constant = True
        return Change(scale, compact(route.up(added / coefficient, 0.0)), constant)

    def down(self, link: Link, source: Value) -> Change:
        """The change of the output of ``link`` if ``source`` changes and the other inputs do not.

        Raises:
            NotSeparable: the output does not become ``scale * output + shift``.
        """
        self.check_passes(link)
        if link.sums:
            raise NotSeparable("the operator adds another tensor, which would have to change too")
        scale = shift = like(link.output, torch.nan)
        for item, route, coefficient in link.inputs:
            part = self if item is source else Change.none(item)
            scale = merge(scale, route.down(part.scale))
            shift = merge(shift, route.down(part.shift, 0.0) * coefficient)
        if link.drops_shift:
            return Change(scale, like(link.output, 0.0), constant=False)
        if link.constant == 0.0 or not bool((scale != 1).any()):
            return Change(scale, shift, self.constant)
        return Change(scale, compact(shift + (1 - scale) * link.constant_numbers()), True)

    def joined(self, other: Change) -> Change:
        """Combine two changes of one tensor that know different elements.

        Raises:
            NotSeparable: the changes contradict each other.
        """
        return Change(
            merge(self.scale, other.scale),
            merge(self.shift, other.shift),
            self.constant or other.constant,
        )
