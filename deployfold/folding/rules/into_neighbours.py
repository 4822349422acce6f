"""Folding affine layers by rescaling and shifting the tensors around all of them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deployfold.folding.algebra import Affine
from deployfold.folding.graph.affine_layer import AffineLayer

from .cells import Cells
from .context import Context
from .labels import Absorber, Demand
from .offsets import Offsets
from .request import CannotFold, Request
from .scales import Indices, Scales, components

_TIED = "a tensor that must stay has the same scale"
_MAGNIFIED = 1e3
"""The largest offset that a tensor may get, in multiples of the tensor's usual size.

A larger offset would lose precision when a reader subtracts it.
"""


class IntoNeighbours:
    """``y = a * x + b`` becomes ``y = x``, and every layer around absorbs part of the difference.

    Every tensor ``v`` may change, channel by channel, to ``S * (v + u)``. The rule applies where
    scales ``S`` and offsets ``u`` exist such that

    1. model inputs and outputs, and what forward hooks or unknown operators read, stay as they are;
    2. operators that carry a channel-wise affine map, as the table of operators says, tie the
       scales and offsets of their tensors; linear layers and other affine layers absorb them;
    3. a reader that must subtract an offset adds no zero padding and does not convolve transposed;
    4. ``S_x = a * S_y`` and ``a * u_x - u_y = b``, so that ``x`` and ``y`` become one tensor;
    5. where ``x`` has other readers, only modules whose ``inplace`` can be switched off work on
       ``y`` in place;
    6. no scale is zero, and no offset is so large that subtracting it again would cost precision;
    7. each layer's weight and bias are stored tensors that nothing else uses. A layer that runs at
       several places reads and writes the same scales and offsets at each.

    The rule tries the affine layers in the order in which they run. Each folded layer constrains
    the layers after it.
    """

    name = "into the layers around it"

    def apply(self, context: Context) -> bool:
        """Fold every affine layer that can go together with the others; see :class:`.Rule`."""
        # Only the layers right behind a norm may absorb its affine parameters.
        waiting = [
            item for item in context.affine_layers if item.reason is None and not item.of_norm
        ]
        if not waiting or context.exhausted == len(context.folded):
            return False
        system = _System(Cells(context))
        going = []
        for item in waiting:
            try:
                context.writers(item)
                system.fold(item)
            except CannotFold as refusal:
                context.refuse(item, self.name, str(refusal))
            else:
                going.append(item)
        if going:
            self._fold_all(going, system, context)
        context.exhausted = len(context.folded)  # a second try would meet the same constraints
        return bool(going)

    def _fold_all(self, going: list[AffineLayer], system: _System, context: Context) -> None:
        """Commit the layer changes that ``system`` found, and fold ``going``."""
        changed = list(system.changed(context, {*going}))
        context.commit(context.agree(item.request for item in changed))
        # Few groups of classes differ in the layers that absorb them: name the layers of a group.
        group, names = np.zeros(system.classes, np.int64), [tuple[str, ...]()]
        for item in changed:
            before, place = np.unique(group[item.classes], return_inverse=True)
            group[item.classes] = len(names) + place
            names += [
                old if item.name in old else (*old, item.name)
                for old in (names[number] for number in before.tolist())
            ]
        for affine_layer in going:
            around = dict.fromkeys(group[system.classes_around(affine_layer)].tolist())
            into = dict.fromkeys(name for number in around for name in names[number])
            context.fold(affine_layer, [], self.name, into=tuple(into))


@dataclass(frozen=True, eq=False)
class _Changed:
    """A layer that absorbs a change: its name, the scale classes of its channels, the request."""

    name: str
    classes: Indices
    request: Request


class _System:
    """The scales and offsets of all cells, solved one affine layer at a time."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._offset_class = components(cells.count, cells.same)
        self._scale_class = components(cells.count, [*cells.same, *cells.same_scale])
        positive = np.zeros(cells.count, bool)
        for signed in cells.positive:
            positive[self._scale_class[signed]] = True
        self._scales = Scales(
            cells.count, self._counts(cells.fixed_scale, self._scale_class), positive
        )
        self._offsets = Offsets(self._counts(cells.fixed_offset, self._offset_class).tolist())
        of = self._offset_class.tolist()
        for ids, coefficients in cells.rows():
            self._offsets.add(tuple(of[cell] for cell in ids), coefficients)
        self._reasons: dict[str, Indices] = {}
        self._own_scale = self._owned(cells.fixed_scale, self._scale_class)
        self._own_offset = self._owned(cells.fixed_offset, self._offset_class)

    def _counts(self, demands: list[Demand], classes: Indices) -> Indices:
        counts = np.zeros(self._cells.count, np.int64)
        for demand in demands:
            np.add.at(counts, classes[demand.cells], 1)
        return counts

    @staticmethod
    def _owned(demands: list[Demand], classes: Indices) -> dict[AffineLayer, Counter[int]]:
        owned: dict[AffineLayer, Counter[int]] = {}
        for demand in demands:
            if demand.owner is not None:
                found = owned.setdefault(demand.owner, Counter())
                found.update(classes[demand.cells].tolist())
        return owned

    def fold(self, item: AffineLayer) -> None:
        """Find scales and offsets that make ``item`` an identity, and add them to the system.

        Raises:
            CannotFold: such scales and offsets do not exist; the system is then unchanged.
        """
        affine = item.affine
        if not bool((affine.scale != 0).all()):
            raise CannotFold("a scale of zero cannot be inverted")
        mark = self._scales.mark(), self._offsets.mark()
        try:
            self._tie_offsets(item, affine)  # first, because a failure shows at the first channel
            self._tie_scales(item, affine)
        except CannotFold:
            self._scales.undo(mark[0])
            self._offsets.undo(mark[1])
            raise
        self._release(item)

    def _tie_scales(self, item: AffineLayer, affine: Affine) -> None:
        own = self._own_scale.get(item, Counter())

        def owned(root: int) -> int:
            return sum(n for one, n in own.items() if self._scales.find(one)[0] == root)

        before = self._scale_class[self._cells.read[item]].tolist()
        behind = self._scale_class[self._cells.written[item]].tolist()
        for one, other, ratio in zip(before, behind, affine.scale.tolist(), strict=True):
            if self._scales.tie(one, other, ratio, owned):
                continue
            if self._scales.tie(one, other, -ratio, owned):
                negative = int((affine.scale < 0).sum())
                signs = (
                    f"{negative} of its {len(affine.scale)} scales are negative, which"
                    if negative
                    else "its scales are positive, which"
                )
                raise CannotFold(
                    f"{signs} does not fit the signs that sums and rectifiers around it require"
                )
            before_it = self._why(one, "scale", item) or _TIED
            behind_it = self._why(other, "scale", item) or _TIED
            raise CannotFold(
                f"its scale can be absorbed neither before it ({before_it}) nor behind it "
                f"({behind_it})"
            )

    def _tie_offsets(self, item: AffineLayer, affine: Affine) -> None:
        own = self._own_offset.get(item, Counter())
        before = self._offset_class[self._cells.read[item]].tolist()
        behind = self._offset_class[self._cells.written[item]].tolist()
        usual = float(affine.scale.abs().median())
        for one, other, scale, shift in zip(
            before, behind, affine.scale.tolist(), affine.shift.tolist(), strict=True
        ):
            rest = shift - (scale * self._offsets.value(one) - self._offsets.value(other))
            if abs(rest) > 1e-15 * abs(shift):
                limit = _MAGNIFIED * min(1.0, abs(scale) / usual)
                changes = self._offsets.change(
                    one, rest / scale, limit / abs(scale), own.__getitem__
                )
                # Sums may carry a change of one side of the affine layer to its other side.
                if isinstance(changes, dict) and other in changes:
                    changes = _scaled(changes, rest / (rest - changes[other]))
                reasons = [changes]
                if isinstance(changes, str):
                    changes = self._offsets.change(other, -rest, limit, own.__getitem__)
                    if isinstance(changes, dict) and one in changes:
                        changes = _scaled(changes, rest / (rest + scale * changes[one]))
                    reasons.append(changes)
                if isinstance(changes, str):
                    before_it = self._why(one, "offset", item) or reasons[0]
                    behind_it = self._why(other, "offset", item) or reasons[1]
                    raise CannotFold(
                        f"its shift can be absorbed neither before it ({before_it}) nor behind it "
                        f"({behind_it})"
                    )
                self._offsets.apply(changes)
            self._offsets.add((one, other), (scale, -1.0))

    def _why(self, item: int, kind: str, leaving: AffineLayer) -> str:
        """Why a class must stay as it is; empty if only classes tied to it must stay.

        Args:
            leaving: the affine layer to fold, whose own demands do not count.
        """
        cells = self._cells
        demands, classes = (
            (cells.fixed_scale, self._scale_class)
            if kind == "scale"
            else (cells.fixed_offset, self._offset_class)
        )
        if kind not in self._reasons:
            found = np.full(cells.count, -1)
            for index in range(len(demands) - 1, -1, -1):
                found[classes[demands[index].cells]] = index
            self._reasons[kind] = found
        index = int(self._reasons[kind][item])
        if index >= 0 and demands[index].owner is not leaving:
            return demands[index].reason
        return ""

    def _release(self, item: AffineLayer) -> None:
        """Drop the demands that only ``item`` made."""
        for one, number in self._own_scale.get(item, Counter()).items():
            self._scales.fixed[self._scales.find(one)[0]] -= number
        for one, number in self._own_offset.get(item, Counter()).items():
            self._offsets.fixed[one] -= number

    # The result.

    @property
    def classes(self) -> int:
        """An upper bound of the number of scale classes."""
        return self._cells.count

    def classes_around(self, item: AffineLayer) -> Indices:
        """The scale classes of the input and the output of an affine layer."""
        cells = np.concatenate([self._cells.read[item], self._cells.written[item]])
        found: Indices = self._scale_class[cells]
        return found

    def changed(self, context: Context, going: set[AffineLayer]) -> Iterator[_Changed]:
        """Yield every layer that must absorb a change, except the layers in ``going``."""
        scales = np.ones(self._cells.count)
        for one in self._scales.tied():
            scales[one] = self._scales.scale(one)
        offsets = np.zeros(self._cells.count)
        for one, number in self._offsets.values.items():
            offsets[one] = number
        for absorber in self._cells.absorbers:
            affine_layer = context.affine_layer_at(absorber.op)
            classes = self._scale_class[absorber.cells]
            scale, offset = scales[classes], offsets[self._offset_class[absorber.cells]]
            same = bool((scale == 1).all()) and not bool(offset.any())
            if same or affine_layer in going:
                continue
            request = _request(absorber, torch.from_numpy(scale), torch.from_numpy(offset))
            if affine_layer is not None:
                name = affine_layer.name
            else:
                weight = context.layer(absorber.op).weight
                name = weight.rpartition(".")[0] or weight
            yield _Changed(name, classes, request)


def _scaled(changes: dict[int, float], factor: float) -> dict[int, float] | str:
    """Changes times ``factor``, or the reason why there are none."""
    if not abs(factor) <= _MAGNIFIED:
        return "sums carry its shift to its other side"
    return {item: change * factor for item, change in changes.items()}


def _request(absorber: Absorber, scale: Tensor, offset: Tensor) -> Request:
    """The request that applies ``scale * (v + offset)`` in a writer, or undoes it in a reader."""
    constant = bool(offset.any())
    if absorber.after:
        return Request(absorber.op, Affine(scale, scale * offset, constant), after=True)
    return Request(absorber.op, Affine(1 / scale, -offset, constant), after=False)
