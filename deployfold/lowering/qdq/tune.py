"""Keeps the Q/DQ nodes of a segment only where they make the engine faster: ``--tune``.

A quantised layer costs kernels that round and convert, so a small layer can be faster without.

1. A segment is a run of layers between two places where one activation alone passes, such as a few
   residual blocks.
2. The engine of the quantised model is timed beside the engine of the same model without the Q/DQ
   nodes of one segment. The largest segment is first, and every timing has the earlier decisions.
3. A segment stays quantised if it saves at least :data:`LEAST_GAIN` of its own time, beyond the
   noise of the measurement. Its own time is estimated by its share of the multiply-accumulates.
4. The accuracy is measured again, because the other layers had compensated for the errors of those
   that went back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

import onnx_ir as ir

from deployfold.config.accuracy import GuardSpec
from deployfold.lowering.progress import Progress, silent
from deployfold.lowering.request import Tuning
from deployfold.util.onnx_values import values_read

from .guard import Step, holds
from .quantise import LayerResult

LEAST_GAIN = 0.02
"""Least share of a segment's time that its Q/DQ nodes must save; NVIDIA Model-Optimizer's autotuner
has the same default."""

_LEAST_SHARE = 1 / 16
"""Least share of the multiply-accumulates of a segment. Smaller segments drown in the noise."""

_MOST_SHARE = 1 / 6
"""Share at which a segment ends even where several activations pass, as inside a U-Net."""


class Tunable(Protocol):
    """The operations that tuning needs of a model that is being quantised."""

    def written(self, results: Sequence[LayerResult], name: str) -> Path:
        """Write the final model of ``results`` as the scratch file ``name``."""

    def measured(self, results: Sequence[LayerResult]) -> Step:
        """Measure the accuracy of ``results`` on the held-back samples."""

    def attempt(self, excluded: frozenset[str], anew: bool = False) -> Step:
        """Quantise all layers except ``excluded``, fitted ``anew`` or not, and measure them."""


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The result of tuning.

    Attributes:
        step: the model to ship.
        reasons: by name, why a layer is not quantised.
        notes: sentences for the user.
    """

    step: Step
    reasons: dict[str, str]
    notes: tuple[str, ...]


def tune(
    job: Tunable,
    graph: ir.Graph,
    step: Step,
    tuning: Tuning,
    guard: GuardSpec,
    progress: Progress = silent,
) -> Tuned:
    """Put back the segments of ``step`` that are not faster in the quantised precision.

    Args:
        job: the model.
        graph: its fp32 graph.
        step: the model that the accuracy guard chose.
        tuning: how to time two models.
        guard: the limits. No segment goes back beyond the least quantised share.
    """
    found = sorted(segments(graph, step.results), key=_macs, reverse=True)
    total = sum(one.macs for one in step.results) or 1
    results, share = list(step.results), step.share
    reasons: dict[str, str] = {}
    limited = 0
    for number, segment in enumerate(found, start=1):
        progress(f"timing segment {number} of {len(found)}")
        names, part = {one.layer.name for one in segment}, _macs(segment) / total
        fewer = without(results, names)
        speedup = tuning.compare(job.written(results, "with"), job.written(fewer, "without"))
        if speedup.value >= 1 + LEAST_GAIN * part and speedup.low > 1:
            continue
        if share - part < guard.min_quantized_share:
            limited += 1
            continue
        results, share = fewer, share - part
        seen = f"{speedup.value:.3f} [{speedup.low:.3f}, {speedup.high:.3f}]"
        reasons |= dict.fromkeys(names, f"put back by --tune: its Q/DQ nodes gain {seen} times")
    notes = [f"--tune timed {len(found)} segments on {tuning.where}, and put back {{}}."]
    if limited:
        notes.append(f"{limited} segments gain nothing, and stay for --min-quantized-share.")
    chosen = _accurate(job, step, results, frozenset(reasons), guard) if reasons else step
    if chosen is None:
        notes.append("Without them the accuracy limits do not hold, so they stay quantised.")
        return Tuned(step, {}, (notes[0].format("none of them"), *notes[1:]))
    progress("timing the tuned model")
    plain = without(chosen.results, {one.layer.name for one in chosen.results})
    whole = tuning.compare(job.written(chosen.results, "with"), job.written(plain, "without"))
    notes.append(
        f"The tuned engine is {whole.value:.2f} times as fast as one without Q/DQ nodes "
        f"[{whole.low:.2f}, {whole.high:.2f}]."
    )
    if whole.low <= 1:
        notes.append(f"{tuning.where} does not run this model faster quantised: take --fp16.")
    return Tuned(chosen, reasons, (notes[0].format(f"{len(reasons)} layers"), *notes[1:]))


def without(results: Sequence[LayerResult], names: Collection[str]) -> list[LayerResult]:
    """The results with the layers ``names`` put back."""
    return [
        dataclasses.replace(one, quantised=None, estimator="", input_range=math.nan)
        if one.layer.name in names
        else one
        for one in results
    ]


def segments(graph: ir.Graph, results: Sequence[LayerResult]) -> list[list[LayerResult]]:
    """The quantised layers in runs of consecutive ones, as the module describes.

    Args:
        graph: the fp32 graph, its nodes in an order in which they can be computed.
        results: the layers in the order of their nodes.
    """
    crossing = _crossing(graph)
    place = {node.name: index for index, node in enumerate(graph)}
    total = sum(one.macs for one in results) or 1
    found: list[list[LayerResult]] = [[]]
    layers = [one for one in results if one.quantised is not None]
    ends = [*(place[one.layer.name] for one in layers[1:]), len(crossing)]
    for one, end in zip(layers, ends, strict=True):
        found[-1].append(one)
        share = _macs(found[-1]) / total
        between = crossing[place[one.layer.name] : end]
        if share >= _MOST_SHARE or (share >= _LEAST_SHARE and 1 in between):
            found.append([])
    if len(found) > 1 and _macs(found[-1]) < _LEAST_SHARE * total:
        last = found.pop()
        found[-1] += last
    return [one for one in found if one]


def _crossing(graph: ir.Graph) -> list[int]:
    """For each node, how many activations that exist behind it are read later."""
    nodes = list(graph)
    born = {value: 0 for value in graph.inputs if value.const_value is None}
    last = dict.fromkeys(graph.outputs, len(nodes))
    for index, node in enumerate(nodes):
        read = values_read(node)
        for value in read:
            last[value] = max(last.get(value, index), index)
        if any(value in born for value in read):  # else a constant
            born |= dict.fromkeys(node.outputs, index)
    counts = [0] * len(nodes)
    for value, first in born.items():
        for index in range(first, last.get(value, first)):
            counts[index] += 1
    return counts


def _macs(segment: Sequence[LayerResult]) -> int:
    return sum(one.macs for one in segment)


def _accurate(
    job: Tunable, step: Step, results: list[LayerResult], names: frozenset[str], guard: GuardSpec
) -> Step | None:
    """The model without ``names`` that holds the limits, fitted anew if it must be."""
    surely = holds(step.measured, guard, surely=True)
    candidate = job.measured(results)
    if not guard.enabled or holds(candidate.measured, guard, surely=surely):
        return candidate
    back = frozenset(one.layer.name for one in step.results if one.quantised is None)
    candidate = job.attempt(back | names, anew=True)
    return candidate if holds(candidate.measured, guard, surely=surely) else None
