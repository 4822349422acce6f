"""What lies around a tensor that is to be changed: what takes that up, and what carries it on."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from deployfold.folding.algebra import Affine
from deployfold.folding.graph.affine_layer import AffineLayer
from deployfold.folding.graph.graph import Op, Value
from deployfold.folding.graph.layers import channel_axis, is_layer
from deployfold.folding.operators.links import Link
from deployfold.folding.operators.partial import NotSeparable

from .context import Context
from .rule import CannotFold

_REASON = "the layers around it cannot take it up together"

_FAR = 60
"""Operators away; what lies further on is not looked at before it is tried."""


@dataclass(eq=False)
class Surroundings:
    """The operators around the tensors next to one affine layer, and what is known of them."""

    affine_layer: AffineLayer
    context: Context
    _links: dict[Op, list[Link]] = field(default_factory=dict)
    _outlook: dict[tuple[Value, bool], bool] = field(default_factory=dict)

    def may_change(self, affine: Affine, scale_before: bool, shift_before: bool) -> bool:
        """Whether it is worth trying: no operator around, whatever the numbers, rules it out.

        This takes a moment; trying it in a dense block, whose tensors are all tied, takes seconds.
        """
        ways = [(scale_before, False)]
        if affine.has_shift:
            ways.append((shift_before, True))
        return all(
            self._may_change(site.inputs[0] if before else site.output, shifts)
            for site in self.affine_layer.sites
            for before, shifts in ways
        )

    def _may_change(self, value: Value, shifts: bool, far: int = 0) -> bool:
        key = (value, shifts)
        if far == _FAR:
            return True
        if key not in self._outlook:
            self._outlook[key] = True  # what leads back here does not rule it out
            try:
                self.refuse_fixed(value, True)
                self._outlook[key] = all(
                    self._may_pass(op, value, shifts, far) for op in self.around(value)
                )
            except CannotFold:
                self._outlook[key] = False
        return self._outlook[key]

    def _may_pass(self, op: Op, value: Value, shifts: bool, far: int) -> bool:
        if self.absorbing_axis(op, value) is not None:
            if shifts and op is not value.producer:
                self.check_takes_shift_off(op)
            return True
        for link in self.links_between(op, value):
            if shifts and link.no_shift:
                return False
            sources = [source for source, _, _ in link.inputs]
            if value is link.output:
                ends = sources
            elif prod(link.output.shape) < prod(value.shape):
                continue  # a slice may be of what stays as it is
            elif link.joins:
                ends = [link.output]
            else:
                ends = [link.output, *(source for source in sources if source is not value)]
            # The rest of a sum can make up for a shift; it has to go along with a scale.
            demand = any if shifts and not link.joins else all
            if not demand(self._may_change(end, shifts, far + 1) for end in ends):
                return False
        return True

    def around(self, value: Value) -> list[Op]:
        """What writes and reads ``value``, the affine_layer apart."""
        ops = [] if value.producer is None else [value.producer]
        return [op for op in (*ops, *value.consumers) if op not in self.affine_layer.sites]

    def absorbing_axis(self, op: Op, value: Value) -> int | None:
        """The channel axis of ``value`` if ``op`` is a layer, which takes a change up.

        Raises:
            CannotFold: it cannot be rewritten.
        """
        affine_layer = self.context.affine_layer_at(op)
        if affine_layer is not None:
            if (
                affine_layer.reason is not None
                or affine_layer.affine is None
                or not affine_layer.editable
            ):
                raise CannotFold(_REASON)
            return affine_layer.channel_axis(value)
        if not is_layer(op):
            return None
        if op is not value.producer and (op["input"] is not value or op.inputs.count(value) > 1):
            raise CannotFold(_REASON)
        self.context.layer(op)  # raises if it cannot be rewritten
        return channel_axis(op, value)

    def check_takes_shift_off(self, op: Op) -> None:
        """Refuse a layer that reads zeros beside its input, and one whose sums have other ends.

        Raises:
            CannotFold: ``op`` is one.
        """
        if self.context.affine_layer_at(op) is None:
            layer = self.context.layer(op)
            if layer.padded or layer.kind == "conv_transpose":
                raise CannotFold(_REASON)

    def links_between(self, op: Op, value: Value) -> list[Link]:
        """How ``op`` ties ``value``, which it writes or reads, to other tensors.

        Raises:
            CannotFold: in no way that could carry a change.
        """
        if op not in self._links:
            try:
                self._links[op] = self.context.links(op)
            except NotSeparable:
                self._links[op] = []
        if op is value.producer:
            found = [link for link in self._links[op] if link.output is value]
        else:
            found = [link for link in self._links[op] if value in (item[0] for item in link.inputs)]
            if len(found) != len(self._links[op]):
                found = []
        if not found:
            raise CannotFold(_REASON)
        return found

    def refuse_fixed(self, value: Value, changed: bool) -> None:
        """Refuse what nobody may change: inputs, outputs, constants, and what a hook sees.

        Raises:
            CannotFold: ``value`` is that, and is to be ``changed``.
        """
        if not changed:
            return
        if value.output or value.producer is None or value.constant:
            raise CannotFold(_REASON)
        self.context.check_unobserved(value)
