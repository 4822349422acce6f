"""Folding a map by changing all tensors around it together (rule 5, and what it allows beyond)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from deployfold.folding.algebra import Affine
from deployfold.folding.graph.affine_layer import AffineLayer
from deployfold.folding.graph.aliases import overwritten, read_by_others
from deployfold.folding.graph.graph import Value
from deployfold.folding.operators.links import Link
from deployfold.folding.operators.partial import (
    NotSeparable,
    along,
    compact,
    constant_along,
    merge,
    on_axis,
)

from .context import Context
from .rule import CannotFold, Request, RuleForOne
from .surroundings import _REASON, Surroundings

_LIMIT = 20_000
"""Steps for one neighbours: a dense block of 36 layers takes 6,000."""

_MAGNIFIED = 1e3
"""How many times the usual size of a tensor the shift that is to be taken off it may be."""


class IntoNeighbours(RuleForOne):
    """``affine`` goes, and every layer around takes up its part of the difference.

    Before the layer the tensors may be changed by ``affine``, behind it by its inverse, or by its
    scale on one side and its shift on the other. Applies where, for every place the layer runs:

    1. the changed tensors are none of the model's inputs or outputs, and no forward hook sees them;
    2. whatever writes or reads a changed tensor is a convolution, transposed convolution, linear
       layer or another affine layer, which takes the change up, or an operator that carries it
       to other tensors: one that moves data, averages, maxima and rectifiers (where no scale is
       negative), sums (all get the scale, their shifts add up), concatenations, and an attention,
       whose weights add up to one;
    3. each layer's channels are those of the change, and a reader that is to take off a shift adds
       no zero padding and is no transposed convolution;
    4. where others read the layer's input, nothing works on its output in place, but for what the
       own class does, which can be told not to;
    5. no scale is zero, and no shift so large that taking it off again would cost precision;
    6. each layer's weight and bias are stored tensors that nothing else uses, and a layer that
       runs at several places is asked for the same thing at each of them.
    """

    name = "into the layers around it"

    def propose(self, affine_layer: AffineLayer, context: Context) -> list[Request]:
        """What has to be asked of which layers for ``affine_layer`` to go.

        Raises:
            CannotFold: the rule does not apply; without a reason, since those of the other rules
                say what lies next to it.
        """
        affine = affine_layer.affine
        assert affine is not None
        if any(
            read_by_others(site.inputs[0]) and overwritten(site.output, site.call)
            for site in affine_layer.sites
        ):
            raise CannotFold(_REASON)
        nearby = Surroundings(affine_layer, context)
        for scale_before in (True, False):
            for shift_before in (scale_before, not scale_before):
                if not nearby.may_change(affine, scale_before, shift_before):
                    continue
                try:
                    neighbours = _Neighbours(affine_layer, context, nearby)
                    neighbours.change(affine, scale_before, shift_before)
                    return context.agree(neighbours.requests())
                except (CannotFold, NotSeparable):
                    continue
        raise CannotFold(_REASON)


@dataclass(eq=False)
class _Neighbours:
    """The tensors to be changed, each with its scale and shift; scales are found first."""

    affine_layer: AffineLayer
    context: Context
    nearby: Surroundings
    scales: dict[Value, Tensor] = field(default_factory=dict)
    shifts: dict[Value, Tensor] = field(default_factory=dict)
    learned: int = 0

    def change(self, affine: Affine, scale_before: bool, shift_before: bool) -> None:
        """Change the layer's input and output such that an identity lies between them."""
        seeds: list[tuple[Value, Tensor, Tensor]] = []
        for site in self.affine_layer.sites:
            source, result = site.inputs[0], site.output
            scale = on_axis(source, self.affine_layer.channel_axis(source), affine.scale)
            shift = on_axis(source, self.affine_layer.channel_axis(source), affine.shift)
            one, zero = torch.ones_like(scale), torch.zeros_like(scale)
            rest = one if scale_before else 1 / scale
            if not bool(rest.isfinite().all()):
                raise CannotFold(_REASON)
            # output = scale * input + shift, and both are to become the same tensor.
            before, behind = (shift * rest, zero) if shift_before else (zero, -shift * rest)
            seeds.append((source, scale if scale_before else one, before))
            seeds.append((result, rest, behind))
        for value, scale, shift in seeds:
            self.nearby.refuse_fixed(value, bool((scale != 1).any()) or bool(shift.any()))
            self._learn(self.scales, value, scale)
        self._spread_scales()
        for value, _, shift in seeds:
            self._learn(self.shifts, value, shift)
        self._spread_shifts([*self.shifts], [*self._unbalanced()])

    def requests(self) -> Iterator[Request]:
        """What the layers and units around the changed tensors have to take up."""
        for value in {**self.scales, **self.shifts}:
            scale, shift = (
                self._scale(value).nan_to_num(nan=1.0),
                self._shift(value).nan_to_num(),
            )
            if bool((scale == 1).all()) and not bool(shift.any()):
                continue
            for op in self.nearby.around(value):
                axis = self.nearby.absorbing_axis(op, value)
                if axis is None:
                    continue
                size = value.shape[axis]
                rows = [along(item, axis).expand(size) for item in (scale, shift)]
                affine = Affine(rows[0], rows[1], constant=bool(rows[1].any()))
                if op is not value.producer:
                    affine = _inverse(affine)
                yield Request(op, affine, after=op is value.producer)

    # Scales: an operator leaves no choice, so they spread until they meet layers.

    def _spread_scales(self) -> None:
        pending = [*self.scales]
        while pending:
            value = pending.pop()
            scale = self.scales[value]
            if bool(((scale != 1) & ~scale.isnan()).any()):
                self.nearby.refuse_fixed(value, True)
                pending += self._spread(self.scales, value, self._carry_scale)
            if not pending:
                pending += self._settle(self.scales, 1.0)

    def _carry_scale(self, link: Link) -> set[Value]:
        changed: set[Value] = set()
        for again in (False, True):  # for what the output learned from the last input
            if again and link.output not in changed:
                break
            for source, route, _ in link.inputs:
                if source in self.scales:
                    changed |= self._learn(
                        self.scales, link.output, route.down(self.scales[source])
                    )
                if link.output in self.scales:
                    changed |= self._learn(self.scales, source, route.up(self.scales[link.output]))
        ends = (link.output, *(source for source, _, _ in link.inputs))
        if link.positive and any(bool((self._scale(value) <= 0).any()) for value in ends):
            raise CannotFold(_REASON)
        return changed

    # Shifts: a sum leaves a choice of where one goes, so one way after the other is tried.

    def _spread_shifts(self, pending: list[Value], links: list[Link]) -> None:
        opened: dict[int, Link] = {id(link): link for link in links}

        def carry(link: Link) -> set[Value]:
            opened[id(link)] = link
            return self._carry_shift(link)

        for link in links:
            pending += self._carry_shift(link)
        while pending:
            value = pending.pop()
            if bool(self.shifts[value].nan_to_num().any()):
                self.nearby.refuse_fixed(value, True)
                pending += self._spread(self.shifts, value, carry)
            if not pending:
                choice = next(filter(None, map(self._choice, opened.values())), None)
                if choice is not None:
                    self._choose(choice, [*opened.values()])
                    return
                pending += self._settle(self.shifts, 0.0)

    def _carry_shift(self, link: Link) -> set[Value]:
        """``output = sum of coefficient * input + (1 - scale) * constant``, for what is known."""
        changed: set[Value] = set()
        added = self._added(link)
        if link.no_shift and any(
            bool(self._shift(value).nan_to_num().any())
            for value in (link.output, *(source for source, _, _ in link.inputs))
        ):
            raise CannotFold(_REASON)
        for _ in range(2):
            output = self._shift(link.output)
            parts = [c * route.down(self._shift(v), 0.0) for v, route, c in link.inputs]
            if link.joins or len(parts) == 1:
                for part in parts:
                    changed |= self._learn(self.shifts, link.output, part + added)
                rests = [output - added] * len(parts)
            else:
                changed |= self._learn(self.shifts, link.output, parts[0] + parts[1] + added)
                rests = [output - added - part for part in reversed(parts)]
            for (source, route, coefficient), rest in zip(link.inputs, rests, strict=True):
                changed |= self._learn(self.shifts, source, route.up(compact(rest)) / coefficient)
        return changed

    def _choice(self, link: Link) -> tuple[Value, ...] | None:
        """The tensors around a sum of which all but one may be left as they are."""
        if link.joins or len(link.inputs) == 1:
            return None
        ends = (link.output, *(source for source, _, _ in reversed(link.inputs)))
        unknown = tuple(value for value in ends if bool(self._shift(value).isnan().any()))
        return unknown or None

    def _choose(self, choice: tuple[Value, ...], links: list[Link]) -> None:
        before = dict(self.shifts)
        for value in reversed(choice):
            try:
                self.shifts[value] = compact(self._shift(value).nan_to_num())
                self._spread_shifts([*self.shifts], links)
                return
            except (CannotFold, NotSeparable):
                self.shifts = dict(before)
        raise CannotFold(_REASON)

    def _unbalanced(self) -> Iterator[Link]:
        """The sums with a constant summand that get a scale, which the constant does not get:
        ``s * (x + k)`` is ``(s * x + (s - 1) * k) + k``."""
        for value in [*self.scales]:
            if bool((self.scales[value] != 1).any()):
                for op in self.nearby.around(value):
                    if self.nearby.absorbing_axis(op, value) is None:
                        links = self.nearby.links_between(op, value)
                        yield from (link for link in links if bool(self._added(link).any()))

    def _added(self, link: Link) -> Tensor:
        scale = self._scale(link.output).nan_to_num(nan=1.0)
        if link.constant == 0.0 or bool((scale == 1).all()):
            return torch.zeros_like(scale)
        return compact((1 - scale) * link.constant_numbers())

    # Both.

    def _spread(
        self,
        known: dict[Value, Tensor],
        value: Value,
        carry: Callable[[Link], set[Value]],
    ) -> set[Value]:
        """Carry what is ``known`` of ``value`` across every operator next to it; what changed."""
        changed: set[Value] = set()
        for op in self.nearby.around(value):
            axis = self.nearby.absorbing_axis(op, value)
            if axis is None:
                for link in self.nearby.links_between(op, value):
                    changed |= carry(link)
                continue
            others = frozenset(range(len(value.shape))) - {axis}
            changed |= self._learn(known, value, constant_along(known[value], others))
            if known is self.shifts and op is not value.producer:
                self.nearby.check_takes_shift_off(op)
        return changed

    def _learn(self, known: dict[Value, Tensor], value: Value, numbers: Tensor) -> set[Value]:
        """Add ``numbers`` to what is known of ``value``; the value, if that is more than before."""
        numbers = compact(numbers)
        if bool(numbers.isnan().all()):
            return set()
        self.learned += 1
        if self.learned > _LIMIT:
            raise CannotFold(_REASON)
        before = known.get(value)
        if before is not None and torch.equal(before, numbers):
            return set()
        known[value] = after = numbers if before is None else merge(before, numbers)
        new = before is None or bool((before.isnan() & ~after.isnan()).any())
        return {value} if new else set()

    def _settle(self, known: dict[Value, Tensor], number: float) -> list[Value]:
        """Let what nothing asks for stay as it is, in one tensor: others may follow it."""
        for value, numbers in known.items():
            if bool(numbers.isnan().any()):
                known[value] = compact(numbers.nan_to_num(nan=number))
                return [value]
        return []

    def _scale(self, value: Value) -> Tensor:
        return self.scales.get(value, torch.full([1] * len(value.shape), torch.nan).double())

    def _shift(self, value: Value) -> Tensor:
        return self.shifts.get(value, torch.full([1] * len(value.shape), torch.nan).double())


def _inverse(affine: Affine) -> Affine:
    """What takes ``affine`` off again.

    Raises:
        CannotFold: that would cost precision.
    """
    size = affine.scale.abs()
    limit = _MAGNIFIED * (size / size.median()).clamp(max=1)
    if not bool(((size > 0) & (affine.shift.abs() <= limit)).all()):
        raise CannotFold(_REASON)
    return Affine(1 / affine.scale, -affine.shift / affine.scale, affine.constant)
