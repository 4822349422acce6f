"""One row of a report: an artifact in a runtime, with everything that was measured.

Every field that is ``None`` or empty by default was added after the first release; a report without
it is as valid as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pydantic import Field

from .fields import Count, Frozen, Number
from .layers import EngineLayers, LayerTimes, QuantizationSummary

SATURATION = 0.95
"""The share of the best throughput from which a batch counts as saturated."""


class Speedup(Frozen):
    """Baseline time / own time, with the bounds of its 95 % interval.

    Fewer than 6 rounds have no interval; the bounds are then 0 and infinity.
    """

    value: Number
    low: Number
    high: Number

    @property
    def bounded(self) -> bool:
        """There were rounds enough for an interval."""
        return self.high != float("inf")

    @property
    def undecided(self) -> bool:
        """The interval holds 1: neither faster nor slower."""
        return self.low <= 1.0 <= self.high


class MeasuredLatency(Protocol):
    """The attributes that :meth:`Latency.of` reads, of ``measuring.measurements.Latency``."""

    @property
    def samples_ms(self) -> Any: ...
    @property
    def median_ms(self) -> float: ...
    @property
    def speedup(self) -> float | None: ...
    @property
    def speedup_low(self) -> float | None: ...
    @property
    def speedup_high(self) -> float | None: ...


class GpuState(Frozen):
    """The GPU after the last round; the fields of ``deployfold.measuring.gpu.GpuState``."""

    sm_clock_mhz: Count | None = None
    max_sm_clock_mhz: Count | None = None
    temperature_c: int | None = None
    power_w: Number | None = None
    power_limit_w: Number | None = None
    throttled_by: tuple[str, ...] = ()


class CudaGraph(Frozen):
    """Whether an engine's work was launched as one CUDA graph, or kernel by kernel.

    ``reason`` says why not, or what captured the graph.
    """

    used: bool
    reason: str = ""


class Latency(Frozen):
    """Latency of one call in milliseconds, and throughput in samples per second at the median.

    ``samples`` is how many timed calls the percentiles come from, ``note`` why they are not
    stable, ``doubts`` the kinds of these reasons (:class:`deployfold.measuring.stability.Doubt`),
    ``h2d_ms`` and ``d2h_ms`` the copies to and from a GPU, which the latency leaves out,
    ``median_low_ms`` and ``median_high_ms`` the median's 95 % interval, ``p95_low_ms`` and
    ``p95_high_ms`` that of the 95th percentile (``None`` of too few calls), ``overtime_s`` the
    seconds past the time limit that the least number of rounds took, ``variation`` the
    coefficient of variation of the calls, ``preemptions_per_s`` how often the scheduler took a CPU
    away, and ``other_cpus`` how many CPUs other programs kept busy meanwhile. ``quantiles_ms`` are
    the least of the calls, every twentieth of them, and the greatest: 21 numbers. ``graph`` is
    of an engine on a GPU. ``end_to_end_ms`` is a call with these copies, by the host's clock.
    """

    median_ms: Number
    p90_ms: Number
    p95_ms: Number
    p99_ms: Number
    throughput: Number
    speedup: Speedup | None
    rounds: Count
    samples: Count
    stable: bool
    note: str | None = None
    doubts: tuple[str, ...] = ()
    h2d_ms: Number | None = None
    d2h_ms: Number | None = None
    median_low_ms: Number | None = None
    median_high_ms: Number | None = None
    variation: Number | None = None
    preemptions_per_s: Number | None = None
    other_cpus: Number | None = None
    gpu: GpuState | None = None
    quantiles_ms: tuple[Number, ...] = ()
    graph: CudaGraph | None = None
    p95_low_ms: Number | None = None
    p95_high_ms: Number | None = None
    end_to_end_ms: Number | None = None
    overtime_s: Number | None = None

    @classmethod
    def of(cls, measured: MeasuredLatency) -> Latency:
        """The report's form of ``deployfold.measuring.measurements.Latency``."""
        value, low, high = measured.speedup, measured.speedup_low, measured.speedup_high
        speedup = None
        if value is not None and low is not None and high is not None:
            speedup = Speedup(value=value, low=low, high=high)
        plain = {
            name: getattr(measured, name)
            for name in cls.model_fields
            if name not in ("speedup", "samples")
        }
        return cls(speedup=speedup, samples=len(measured.samples_ms), **plain)


class OutputAccuracy(Frozen):
    """One output, or one part of an output, against the original's.

    Attributes:
        index: its place in this list.
        name: of the output; ``output0[0:4]`` for a part. ``None`` where only the place is known.
    """

    index: Count
    name: str | None = None
    shape: tuple[int, ...]
    max_abs_diff: Number
    sqnr_db: Number
    cosine: Number | None = None


class Accuracy(Frozen):
    """Outputs against the original's on the same inputs; of several outputs, the worst.

    Attributes:
        top1_agreement: the share (0 to 1) of samples with the original's first class; for
            classifiers only.
        top5_agreement: the share whose five first classes hold the original's first.
        accuracy: the share whose first class is the label's; only where there were labels.
        samples: how many samples were compared; ``None`` in older reports.
        outputs: every output apart, where there are several.
    """

    max_abs_diff: Number
    sqnr_db: Number
    cosine: Number | None = None
    top1_agreement: Number | None = None
    nonfinite: Count = 0
    top5_agreement: Number | None = None
    accuracy: Number | None = None
    samples: Count | None = None
    outputs: tuple[OutputAccuracy, ...] = ()


class BatchPoint(Frozen):
    """One batch size of a sweep; without a median, ``not_measured`` holds the reason.

    ``throughput`` is in samples per second at the median.
    """

    batch: Count
    median_ms: Number | None = None
    throughput: Number | None = None
    stable: bool = False
    not_measured: str | None = None


def saturation(points: Sequence[BatchPoint]) -> int | None:
    """The smallest batch within 5 % of the best throughput; ``None`` of fewer than two batches."""
    measured = [(p.batch, p.throughput) for p in points if p.throughput is not None]
    if len(measured) < 2:
        return None
    best = max(throughput for _, throughput in measured)
    return min(batch for batch, throughput in measured if throughput >= SATURATION * best)


class ColdStart(Frozen):
    """A fresh process, after its imports, with the file in the page cache; medians of ``runs``.

    Attributes:
        load_ms: from the file to a model that can run.
        first_ms: its first inference.
        total_ms: the two together.
        peak_bytes: how much the process grew at its peak, by resident memory.
        not_measured: why there are no numbers.
    """

    load_ms: Number | None = None
    first_ms: Number | None = None
    total_ms: Number | None = None
    peak_bytes: Count | None = None
    runs: Count = 0
    not_measured: str | None = None


class Row(Frozen):
    """One artifact in one runtime.

    Attributes:
        name: stable and machine-readable, such as ``onnxruntime-fp16``; thresholds use it.
        title: what people read.
        artifact: its file, relative to the report; ``None`` for a model in memory.
        parameters, batchnorm_layers, bytes: ``None`` where they are not known.
        latency: ``None`` where it was not measured; ``not_measured`` then holds the reason.
        accuracy: ``None`` for the baseline (unless there were labels) and for what could not run.
        scores: the numbers of task metrics by name, more is better; of the baseline as well.
        sweep: throughput by batch size, where it was asked for.
        cold_start: where it was asked for and the row is a file that a runtime loads.
        quantization: of a quantised row.
        engine_layers: of an engine, where its library lists them.
        layer_times: where they were asked for and the runtime reports them.
        fixed_batch: whether the file takes only the batch size of the build, although the batch was
            to be dynamic.
        measured_on: the machine that measured the latency; ``None`` for that of the report.
    """

    name: str
    title: str
    artifact: str | None = None
    parameters: Count | None = None
    batchnorm_layers: Count | None = None
    bytes: Count | None = None
    latency: Latency | None = None
    accuracy: Accuracy | None = None
    scores: dict[str, Number] = Field(default_factory=dict)
    not_measured: str | None = None
    notes: tuple[str, ...] = ()
    sweep: tuple[BatchPoint, ...] = ()
    cold_start: ColdStart | None = None
    quantization: QuantizationSummary | None = None
    engine_layers: EngineLayers | None = None
    layer_times: LayerTimes | None = None
    fixed_batch: bool = False
    measured_on: str | None = None
