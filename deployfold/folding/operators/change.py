"""How a tensor is to change: ``x`` becomes ``scale * x + shift``, and what that asks of others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deployfold.folding.algebra import Affine
from deployfold.folding.graph.graph import Value

from .links import Link
from .partial import NotSeparable, along, compact, like, merge, on_axis, varying_axes


@dataclass(frozen=True, eq=False)
class Change:
    """``x`` becomes ``scale * x + shift``, both partly known tensors of the value ``x``.

    Elements whose scale is NaN are read by nobody. ``constant`` says whether there is a shift at
    all, even one that happens to be zero.
    """

    scale: Tensor
    shift: Tensor
    constant: bool

    @classmethod
    def of_axis(cls, value: Value, axis: int, affine: Affine) -> Change:
        """A map of the channels on ``axis`` of ``value``."""
        scale, shift = on_axis(value, axis, affine.scale), on_axis(value, axis, affine.shift)
        return cls(compact(scale), compact(shift), affine.constant)

    @classmethod
    def none(cls, value: Value) -> Change:
        """``value`` stays as it is."""
        return cls(like(value, 1.0), like(value, 0.0), constant=False)

    @property
    def shifts(self) -> bool:
        """Whether some shift differs from zero."""
        return bool(self.shift.nan_to_num().any())

    def without_shift(self) -> Change:
        """The same scale alone."""
        return Change(self.scale, torch.zeros_like(self.shift), constant=False)

    def affine(self, value: Value, axis: int) -> Affine:
        """The change of each channel on ``axis`` of ``value``; none where nobody reads it.

        Raises:
            NotSeparable: it varies along another axis.
        """
        rows = []
        for numbers, unread in ((self.scale, 1.0), (self.shift, 0.0)):
            row = along(numbers, axis).nan_to_num(nan=unread)
            rows.append(row.expand(value.shape[axis]).clone())
        return Affine(rows[0], rows[1], self.constant)

    def only_along(self, axis: int) -> bool:
        """Whether it varies along ``axis`` alone, or not at all."""
        return all(varying_axes(item) in ([], [axis]) for item in (self.scale, self.shift))

    def check_passes(self, link: Link) -> None:
        """Refuse what cannot be carried through ``link``.

        Raises:
            NotSeparable: with the reason.
        """
        if link.positive and bool((self.scale < 0).any()):
            raise NotSeparable(link.positive)
        if link.no_shift and self.shifts:
            raise NotSeparable(link.no_shift)

    def up(self, link: Link, index: int, *, shift: bool = True) -> Change:
        """What an input has to become for the output of ``link`` to become this.

        The constant that the operator adds stays, so ``scale * (x + k) + shift`` needs ``x`` to
        become ``scale * x + (scale - 1) * k + shift``.

        Args:
            shift: whether this input takes the shift; of a sum exactly one has to.

        Raises:
            NotSeparable: no change of the input does that.
        """
        source, route, coefficient = link.inputs[index]
        self.check_passes(link)
        scale = compact(route.up(self.scale))
        if not shift:
            return Change(scale, like(source, 0.0), constant=False)
        added, constant = self.shift, self.constant
        if link.constant != 0.0 and bool((self.scale != 1).any()):
            added = added + (self.scale - 1) * link.constant_numbers()
            constant = True
        return Change(scale, compact(route.up(added / coefficient, 0.0)), constant)

    def down(self, link: Link, source: Value) -> Change:
        """What the output of ``link`` becomes if ``source`` changes and its other inputs do not.

        Raises:
            NotSeparable: it is not a change of that kind.
        """
        self.check_passes(link)
        if link.sums:
            raise NotSeparable("it adds another tensor, which would have to change as well")
        scale = shift = like(link.output, torch.nan)
        for item, route, coefficient in link.inputs:
            part = self if item is source else Change.none(item)
            scale = merge(scale, route.down(part.scale))
            shift = merge(shift, route.down(part.shift, 0.0) * coefficient)
        if link.constant == 0.0 or not bool((scale != 1).any()):
            return Change(scale, shift, self.constant)
        return Change(scale, compact(shift + (1 - scale) * link.constant_numbers()), True)

    def joined(self, other: Change) -> Change:
        """Both, of different elements of one tensor.

        Raises:
            NotSeparable: they contradict each other.
        """
        return Change(
            merge(self.scale, other.scale),
            merge(self.shift, other.shift),
            self.constant or other.constant,
        )
