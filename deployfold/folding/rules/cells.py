"""The cells of a traced model: sets of elements that must change by one scale and one offset.

A *cell* is a set of elements of one tensor, in most cases one channel. :class:`Cells` follows the
cells through the graph once, from the first operator to the last. Operators that move, join or
average elements pass the cells of their inputs on; layers and sums begin new cells. The constraints
of all operators are collected in arrays, which :mod:`.scales` and :mod:`.offsets` solve.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deployfold.folding.graph.affine_layer import AffineLayer
from deployfold.folding.graph.graph import Op, Value
from deployfold.folding.graph.layers import channel_axis, is_layer
from deployfold.folding.operators.links import NEVER_SHIFTED, Link
from deployfold.folding.operators.partial import NotSeparable, compact

from .context import Context, describe
from .labels import FIXED, PADDING, Absorber, Demand, Labels
from .request import CannotFold
from .scales import Indices


class Cells(Labels):
    """The cells of a model and the constraints that its operators put on them.

    Attributes:
        count: the number of cells.
        same: pairs of cells that share one scale and one offset.
        same_scale: pairs of cells that share one scale.
        fixed_scale, fixed_offset: cells that must keep scale 1, or offset 0, with the reason.
        positive: cells whose scale must stay positive.
        equations: for sums, the output cells, the input cells and the coefficients, row by row.
        absorbers: the layers that can absorb a change, one entry for each place where one runs.
        read, written: for each affine layer, the cells of its input's and its output's channels.
    """

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.same_scale: list[tuple[Indices, Indices]] = []
        self.fixed_scale = [*self.fixed_offset]
        self.positive: list[Indices] = []
        self.equations: list[tuple[Indices, list[Indices], npt.NDArray[np.float64]]] = []
        self.absorbers: list[Absorber] = []
        self.read: dict[AffineLayer, Indices] = {}
        self.written: dict[AffineLayer, Indices] = {}
        for op in context.graph.ops:
            self._follow(op)
        for op in context.graph.ops:
            for value in op.outputs:
                self._check_fixed(value)

    # Following the cells.

    def _follow(self, op: Op) -> None:
        """Carry the cells of the inputs of ``op`` to its outputs; record its constraints."""
        if not op.variable:
            return
        affine_layer = self._context.affine_layer_at(op)
        if affine_layer is not None:
            self._follow_affine_layer(affine_layer, op)
        elif is_layer(op):
            self._follow_layer(op)
        else:
            try:
                links = self._context.links(op)
                carried = {value for link in links for value in link.ends[1:]}
            except NotSeparable as reason:
                self._fix_inputs(op, set(), f"{describe(op)} reads it: {reason}")
                return
            self._fix_inputs(op, carried, f"{describe(op)} reads it for something else")
            for link in links:
                try:
                    self.labels[link.output] = self._through(link, op)
                except NotSeparable as reason:
                    self._fix_inputs(op, set(), f"{describe(op)} reads it: {reason}")
                    self.labels.pop(link.output, None)

    def _fix_inputs(self, op: Op, carried: set[Value], reason: str) -> None:
        for value in op.variable:
            if value not in carried:
                self._fix(self.ids(self.of(value)), reason)

    def _follow_layer(self, op: Op) -> None:
        source: Value = op["input"]
        for value in op.variable:
            if value is not source:
                self._fix(self.ids(self.of(value)), f"{describe(op)} reads it as a parameter")
        read = None
        if not source.constant:
            read = self.along(source, channel_axis(op, source), describe(op))
        try:
            layer = self._context.layer(op)
        except CannotFold as reason:
            if read is not None:
                self._fix(read, f"{describe(op)} cannot be changed: {reason}")
            return
        written = self.block(layer.key, op.output.shape[channel_axis(op, op.output)])
        self.share(("written", layer.weight), written, self.same_scale)
        self.label(op.output, channel_axis(op, op.output), written)
        self.absorbers.append(Absorber(op, written, after=True))
        try:
            self._context.check_takes_bias(op)
        except CannotFold as reason:
            self.fixed_offset.append(Demand(written, str(reason)))
            if read is not None:
                self.fixed_offset.append(Demand(read, str(reason)))
        if read is None:
            return
        if op.inputs.count(source) > 1:
            self._fix(read, f"{describe(op)} reads it twice")
        if layer.shift_barrier:
            self.fixed_offset.append(Demand(read, f"{describe(op)} {layer.shift_barrier}"))
        # Layers with one weight and different biases need the same scales alone.
        self.share(("read", *layer.key), read, self.same)
        self.share(("read", layer.weight), read, self.same_scale)
        self.absorbers.append(Absorber(op, read, after=False))

    def _follow_affine_layer(self, affine_layer: AffineLayer, op: Op) -> None:
        source, result = op.inputs[0], op.output
        read = self.along(source, affine_layer.channel_axis(source), affine_layer.name)
        written = self.block(affine_layer, result.shape[affine_layer.channel_axis(result)])
        self.label(result, affine_layer.channel_axis(result), written)
        self.share(("read", affine_layer), read, self.same)
        self.read.setdefault(affine_layer, read)
        self.written.setdefault(affine_layer, written)
        if affine_layer.reason is None and affine_layer.editable:
            self.absorbers.append(Absorber(op, read, after=False))
            self.absorbers.append(Absorber(op, written, after=True))
        else:
            owner = affine_layer if affine_layer.reason is None else None
            for cells in (read, written):
                self._fix(cells, f"{affine_layer.name} cannot be changed", owner)

    def _through(self, link: Link, op: Op) -> Tensor:
        """Return the cells of the output of a link of ``op``; record the link's constraints."""
        if link.parts:
            return self._joined(link)
        parts = []
        for source, route, _ in link.inputs:
            if source.constant:
                parts.append(route.down(torch.full([1] * len(source.shape), float(FIXED)).double()))
                continue
            labels = self.united(self.of(source), route)
            self._demand(labels, link, op)
            parts.append(self.carried(labels, route))
        plain = len(parts) == 1 and isinstance(link.inputs[0][2], float)
        if link.drops_shift:
            return self._without_offset(parts[0], op)
        if plain and link.inputs[0][2] == 1.0 and link.constant == 0.0:
            return parts[0]
        return self._summed(link, parts)

    def _without_offset(self, labels: Tensor, op: Op) -> Tensor:
        """Begin new cells that have the scales of the old ones, and no offset."""
        labels = labels.nan_to_num(nan=FIXED)
        old = self.ids(labels)
        new = self.new(len(old))
        self.same_scale.append((new, old))
        self.fixed_offset.append(Demand(new, f"{describe(op)} computes it: {NEVER_SHIFTED}"))
        places = torch.searchsorted(torch.from_numpy(old), labels.long())
        return torch.from_numpy(new).double()[places]

    def _joined(self, link: Link) -> Tensor:
        """Return the cells of the output of a concatenation."""
        parts, axis = [], 0
        for source, route in link.parts:
            labels, axis = self.of(source), route.axis
            labels = labels.unsqueeze(axis) if route.new else labels
            size = [-1] * labels.dim()
            size[axis] = route.stop - route.start
            parts.append(labels.expand(size))
        shapes = [[*part.shape[:axis], 1, *part.shape[axis + 1 :]] for part in parts]
        common = [max(sizes) for sizes in zip(*shapes, strict=True)]
        whole = [
            part.expand([*common[:axis], part.shape[axis], *common[axis + 1 :]]) for part in parts
        ]
        return compact(torch.cat(whole, axis))

    def _demand(self, labels: Tensor, link: Link, op: Op) -> None:
        if not (link.positive or link.no_shift or link.constant != 0.0):
            return
        cells = self.ids(labels)
        if link.positive:
            self.positive.append(cells)
        if link.no_shift:
            reason = f"{describe(op)} reads it: {link.no_shift}"
            self.fixed_offset.append(Demand(cells, reason))
        if link.constant != 0.0:
            reason = f"{describe(op)} adds a constant to it"
            self.fixed_scale.append(Demand(cells, reason))

    def _summed(self, link: Link, parts: list[Tensor]) -> Tensor:
        """Begin new cells for a weighted sum: one for each combination of input cells."""
        coefficients = [c for _, _, c in link.inputs]
        varying = [c for c in coefficients if isinstance(c, Tensor)]
        whole = torch.broadcast_tensors(*parts, *varying)  # type: ignore[no-untyped-call]
        labels, weights = whole[: len(parts)], iter(whole[len(parts) :])
        rows = torch.stack([part.nan_to_num(nan=PADDING).flatten() for part in labels])
        numbers = [
            (next(weights) if isinstance(c, Tensor) else torch.full_like(labels[0], c)).flatten()
            for c in coefficients
        ]
        unique, inverse = torch.unique(
            torch.cat([rows, torch.stack(numbers)]), dim=1, return_inverse=True
        )
        new = self.new(unique.shape[1])
        inputs = [row.long().numpy() for row in unique[: len(parts)]]
        for cells in inputs:
            known = cells != PADDING  # padding zeros fit any scale
            self.same_scale.append((new[known], cells[known]))
            cells[~known] = FIXED
        factors = unique[len(parts) :].numpy()
        self.equations.append((new, inputs, factors))
        result = torch.from_numpy(new).double()[inverse].reshape(labels[0].shape)
        return compact(result)

    # Cells that must stay as they are.

    def _check_fixed(self, value: Value) -> None:
        if value not in self.labels:
            return
        try:
            if value.output:
                raise CannotFold("it is an output of the model")
            self._context.check_unobserved(value)
        except CannotFold as reason:
            self._fix(self.ids(self.of(value)), str(reason))

    def _fix(self, cells: Indices, reason: str, owner: AffineLayer | None = None) -> None:
        self.fixed_scale.append(Demand(cells, reason, owner))
        self.fixed_offset.append(Demand(cells, reason, owner))

    def rows(self) -> Iterator[tuple[tuple[int, ...], tuple[float, ...]]]:
        """Yield each sum's equation: the cells' offsets, times the coefficients, add up to 0."""
        for new, inputs, factors in self.equations:
            cells = np.stack([new, *inputs], axis=1).tolist()
            numbers = np.concatenate([np.full((1, len(new)), -1.0), factors]).T.tolist()
            yield from zip(map(tuple, cells), map(tuple, numbers), strict=True)
