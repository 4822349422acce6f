"""The accuracy guard of 16-bit models: nodes go back to fp32 until the accuracy holds.

1. Nodes that the user names stay in fp32, and nodes that compute with positions (see
   :mod:`.positions`). For float16, nodes with values outside its range stay too.
2. If the rounded model gives infinities or NaN that fp32 does not have, the nodes around the first
   of these values stay.
3. If an output has less SQNR than the limit, the costliest tensors (see :mod:`.sensitivity`) are
   not rounded: the nodes that compute and read these tensors stay.
4. If a task metric misses its limit, step 3 follows with a limit 6 dB above the SQNR.
5. After each step the whole model is converted and measured again, with every tensor rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from deployfold.config.task_metrics import MetricLimit
from deployfold.errors import AccuracyError, ExportError
from deployfold.exporting.storage import SCRATCH_THRESHOLD, write_model
from deployfold.lowering.accuracy import Measured, Measurer, noise_of
from deployfold.lowering.activations import too_large
from deployfold.lowering.emulate import emulate
from deployfold.lowering.graph import complete_types
from deployfold.lowering.progress import Progress
from deployfold.lowering.request import Feed
from deployfold.lowering.result import HeadRoom
from deployfold.util.arrays import Array
from deployfold.util.memory import release
from deployfold.util.onnx_values import LAYERS

from .convert import convert, plan_nodes
from .formats import CastFormat
from .headroom import degrees, head_room
from .positions import counting_nodes
from .ranges import TensorRange, activation_ranges, merged
from .selection import around_loss, check_io, out_of_range
from .sensitivity import RoundingModel, costliest, nodes_around

_ROUNDS = 8
"""How often the guard adds nodes to the kept ones before it gives up."""

_MARGIN_DB = 1.0
"""Margin over the limit that the search aims at, because errors do not add up exactly."""

_METRIC_DB = 6.0
"""How much more SQNR each round aims at while a task metric misses its limit."""


@dataclass(frozen=True)
class Guarded:
    """The guard's result: the nodes that stay in fp32, and the accuracy of the resulting model.

    Attributes:
        kept: reasons by node name.
        measured: the accuracy on the inputs, with every 16-bit tensor rounded.
        ranges: the ranges of all tensors of the fp32 model; empty if the guard did not need them.
        head_room: the least head-room of the float16 tensors; ``None`` without such tensors.
        scores: the numbers of the task metrics by name.
        notes: sentences for the user.
    """

    kept: dict[str, str]
    measured: Measured
    ranges: dict[str, TensorRange]
    head_room: HeadRoom | None
    scores: Mapping[str, float]
    notes: tuple[str, ...] = ()


class CastGuard:
    """Chooses the nodes of one model that stay in fp32.

    Args:
        model: a prepared float32 model; the guard completes types that inference did not find.
        reference: the file of ``model``, or a measurer with the fp32 model's outputs on ``inputs``.
        scorer: a measurer with the fp32 model's outputs on the samples of the task metrics.
        largest: inputs at the largest shapes, for ranges only.
    """

    def __init__(
        self,
        model: ir.Model,
        form: CastFormat,
        inputs: Sequence[Feed],
        reference: Path | Measurer,
        scratch: Path,
        *,
        float_io: bool,
        progress: Progress,
        scorer: Measurer | None = None,
        largest: Sequence[Feed] = (),
    ) -> None:
        self._model, self._form, self._inputs = model, form, inputs
        self._scratch = scratch
        self._scorer = scorer
        self._float_io, self._progress = float_io, progress
        self._largest = largest
        self._notes: tuple[str, ...] = ()
        self._ranges: dict[str, TensorRange] = {}
        outputs: dict[str, list[Array]] = {}
        untyped = any(v.type is None for node in model.graph for v in node.outputs)
        if form.limited_range or untyped:
            outputs = self._look_at_ranges()
        if isinstance(reference, Path):
            reference = Measurer(reference, inputs, None, model=model, outputs=outputs)
        self._measurer = reference

    def keep_accuracy(self, asked: Mapping[str, str], limit_db: float | None) -> Guarded:
        """Add nodes to the user's kept nodes until the accuracy holds, as the module describes.

        Args:
            limit_db: the least SQNR (dB) of every output; ``None`` sets no limit.

        Raises:
            AccuracyError: the accuracy cannot be kept, or only with every layer in fp32.
            ExportError: float16 inputs or outputs cannot hold the observed values.
        """
        form = self._form
        kept = counting_nodes(self._model, form.dtype.name.lower()) | dict(asked)
        if form.limited_range:
            if not self._float_io:
                check_io(self._model, self._ranges)
            kept |= {
                name: reason
                for name, reason in out_of_range(self._model, self._ranges).items()
                if name not in kept
            }
        missed: tuple[MetricLimit, ...] = ()
        before = dict(kept)
        number = 0
        while True:
            measured = self._measure(kept)
            if measured.lost:
                more = self._around_loss(kept)
                before |= more
            elif limit_db is None or measured.sqnr_db >= limit_db:
                scored = self._score(kept)
                if limit_db is None or scored is None or not scored.missed:
                    self._check_rest(before, kept, limit_db)
                    scores = scored.scores if scored else {}
                    room = self._head_room(kept)
                    return Guarded(kept, measured, self._ranges, room, scores, self._notes)
                missed = scored.missed
                more = self._costliest(kept, measured.sqnr_db + _METRIC_DB)
            else:
                # Each round aims at 3 dB more, because interacting errors made the last prediction
                # too good; it may even have said that no tensor costs too much.
                more = self._costliest(kept, limit_db + _MARGIN_DB + 3.0 * number)
                while not more and number + 1 < _ROUNDS:
                    number += 1
                    more = self._costliest(kept, limit_db + _MARGIN_DB + 3.0 * number)
            number += 1
            if not more or number == _ROUNDS:
                raise AccuracyError(self._refusal(measured, limit_db, missed))
            kept |= more

    def _look_at_ranges(self) -> dict[str, list[Array]]:
        """Measure the ranges on the inputs; returns the fp32 model's outputs there, by name."""
        path = self._scratch / "fp32.onnx"
        write_model(self._model, path, threshold=SCRATCH_THRESHOLD)
        outputs = {str(value.name) for value in self._model.graph.outputs}
        observed = activation_ranges(path, self._inputs, keep=outputs)
        self._ranges = observed.ranges
        complete_types(self._model, observed.dtypes)
        if not self._largest or not self._form.limited_range:
            return observed.kept
        why = too_large(self._model, self._largest)
        if why is None:
            try:
                wider = activation_ranges(path, self._largest)
                self._ranges = merged(self._ranges, wider.ranges)
            except ExportError as error:
                why = error.message
        if why is not None:
            self._notes = (f"Values at the largest shapes were not measured: {why}",)
        return observed.kept

    def _measure(self, kept: Mapping[str, str]) -> Measured:
        self._progress(f"measuring {self._form.name} with every tensor rounded")
        return self._measurer.measure(self._rounded(kept))

    def _score(self, kept: Mapping[str, str]) -> Measured | None:
        if self._scorer is None:
            return None
        self._progress(f"scoring {self._form.name} with every tensor rounded")
        return self._scorer.measure(self._rounded(kept))

    def _rounded(self, kept: Mapping[str, str]) -> Path:
        path = self._scratch / "rounded.onnx"
        copy = self._model.clone()
        convert(copy, self._form, kept, float_io=self._float_io)
        emulate(copy, self._form.dtype)
        write_model(copy, path, threshold=SCRATCH_THRESHOLD)
        del copy
        release()  # before ONNX Runtime holds the same weights
        return path

    def _around_loss(self, kept: Mapping[str, str]) -> dict[str, str]:
        if not self._ranges:
            self._look_at_ranges()
        finite = {name: found.finite for name, found in self._ranges.items()}
        rounded = self._rounded(kept)
        title = self._form.dtype.name.lower()
        return around_loss(self._model, rounded, self._inputs, finite, kept, title)

    def _costliest(self, kept: Mapping[str, str], goal_db: float) -> dict[str, str]:
        name = self._form.name
        self._progress(f"looking for the tensors that {name} costs most")
        path = self._scratch / "switched.onnx"
        rounding = RoundingModel(self._model, self._form, kept, self._inputs, path, self._measurer)
        alone: dict[tuple[int, ...], float] = {}

        def noise(positions: Sequence[int]) -> float:
            measured = rounding.measure(positions)
            alone[tuple(positions)] = measured.sqnr_db
            return noise_of(measured.sqnr_db)

        found = costliest(noise, len(rounding.tensors), noise_of(goal_db))
        plans = plan_nodes(self._model, self._form, kept)
        more: dict[str, str] = {}
        for position in found:
            tensor = rounding.tensors[position]
            cost = f"{alone[position,]:.1f} dB" if (position,) in alone else "too little SQNR"
            reason = f"put back by the guard: {tensor!r} alone in {name} leaves {cost}"
            for node in nodes_around(self._model, tensor, plans):
                more.setdefault(str(node.name), reason)
        return more

    def _check_rest(
        self, before: Mapping[str, str], kept: Mapping[str, str], limit_db: float | None
    ) -> None:
        """Raise if the guard itself put the last 16-bit layer back to fp32."""
        first = plan_nodes(self._model, self._form, before)
        last = plan_nodes(self._model, self._form, kept)
        narrow = [node for node, plan in first.items() if plan.outputs]
        layers = [node for node in narrow if node.op_type in LAYERS] or narrow
        if layers and limit_db is not None and not any(last[node].outputs for node in layers):
            what = "layer" if layers != narrow else "node"
            title = self._form.precision.record.title
            raise AccuracyError(f"{title} keeps {limit_db:g} dB only with every {what} in fp32.")

    def _refusal(
        self, measured: Measured, limit_db: float | None, missed: tuple[MetricLimit, ...]
    ) -> str:
        title = self._form.precision.record.title
        if measured.lost:
            return f"The {self._form.name} model gives infinities or NaN where fp32 does not."
        if missed and limit_db is not None and measured.sqnr_db >= limit_db:
            return f"{title} misses --min-metric {missed[0]}."
        return f"{title} gives {measured.sqnr_db:.1f} dB, and not {limit_db:g} dB."

    def _head_room(self, kept: Mapping[str, str]) -> HeadRoom | None:
        if not self._form.limited_range:
            return None
        plans = plan_nodes(self._model, self._form, kept)
        narrow = frozenset(
            str(node.outputs[index].name) for node, plan in plans.items() for index in plan.outputs
        )
        return head_room(self._ranges, degrees(self._model, self._ranges), narrow)
