"""One row of a report: an artifact in a runtime, with everything that was measured.

Every field that is ``None`` or empty by default was added after the first release; a report without
it is as valid as before.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        """The interval contains 1: neither faster nor slower."""
        return self.low <= 1.0 <= self.high


class GpuState(Frozen):
    """The state of one GPU; a field is ``None`` if NVML does not support it on this GPU.

    Attributes:
        sm_clock_mhz, max_sm_clock_mhz: the current SM clock, and the maximum.
        temperature_c: the temperature of the die, in degrees Celsius.
        power_w, power_limit_w: the current power draw, and the limit in force, in watts.
        throttled_by: the reasons for lowered clocks; empty without one.
    """

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
    """The latency of one row. Times are in milliseconds; on a GPU, of the computation alone.

    Attributes:
        median_ms, p90_ms, p95_ms, p99_ms: percentiles of all timed calls.
        throughput: samples per second at the median: batch size / median.
        speedup: baseline time / own time; ``None`` if the baseline was not measured by the same
            clock.
        rounds, samples: the numbers of completed rounds and of timed calls.
        stable: whether the numbers are reliable, that is, ``note`` is ``None``.
        note: the reasons why the numbers are not reliable.
        doubts: the kinds of these reasons, see :class:`deployfold.measuring.stability.Doubt`.
        h2d_ms, d2h_ms: medians of the copies to and from the GPU; ``None`` on the CPU.
        median_low_ms, median_high_ms: the 95 % interval of the median over rounds; from 0 to
            infinity for too few rounds.
        variation: coefficient of variation of the calls.
        preemptions_per_s: involuntary context switches per second while the row ran.
        other_cpus: number of CPUs that other programs kept busy during the rounds.
        gpu: the state of the GPU after the last round; ``None`` on the CPU.
        quantiles_ms: the calls at 0, 5, …, 100 %.
        graph: whether the work was launched as one CUDA graph; ``None`` on the CPU.
        p95_low_ms, p95_high_ms: the 95 % interval of ``p95_ms``; ``None`` for too few calls.
        end_to_end_ms: median of a call with its copies, by the host's clock; ``None`` on the CPU,
            where it equals the latency.
        overtime_s: seconds past the time limit that the least number of rounds took; ``None``
            without any.
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


class OutputAccuracy(Frozen):
    """One output, or one part of an output, against the original's.

    Attributes:
        index: its place in this list.
        name: of the output; ``output0[0:4]`` for a part. ``None`` where only the place is known.
        shape: its shape on the first inputs, with the batch axis.
        max_abs_diff, sqnr_db, cosine: see :class:`Accuracy`.
    """

    index: Count
    name: str | None = None
    shape: tuple[int, ...]
    max_abs_diff: Number
    sqnr_db: Number
    cosine: Number | None = None


class Accuracy(Frozen):
    """The comparison of all outputs with the original's. Every number is that of the worst output.

    Pooling the values of all outputs would hide the error of outputs with small values (scores)
    behind outputs with large values (boxes in pixels).

    Attributes:
        max_abs_diff: the greatest absolute difference; ``inf`` if a value is NaN or infinite and
            the original's is not the same.
        sqnr_db: 10 log10 of signal power over error power, pooled over all inputs; ``inf`` for
            identical outputs.
        cosine: the cosine of the angle between the flattened outputs; 1 for identical outputs, NaN
            if one output is all zero or ``max_abs_diff`` is infinite.
        top1_agreement: the share (0 to 1) of samples with the same argmax, for a classifier: a
            model with one floating-point output of shape (N, classes) and two classes or more.
        nonfinite: the number of values that are NaN or infinite on one side and differ.
        top5_agreement: the share of samples whose five greatest outputs include the original's
            argmax; ``None`` also for five classes or fewer, where all samples agree.
        accuracy: the share of samples whose argmax is their label; ``None`` without labels.
        samples: the number of samples compared; ``None`` in older reports. The first axis counts;
            an output without axes is one sample.
        outputs: every output separately; empty for a single output.
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

    @property
    def first_score(self) -> tuple[str, float] | None:
        """Name and number of the first task metric, which judges the row; ``None`` without any."""
        return next(iter(self.scores.items()), None)
