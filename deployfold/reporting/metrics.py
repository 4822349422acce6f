"""The metrics of a row: the columns of every table, and the names that flags take.

The terminal table, Markdown, HTML, ``--sort``, ``--fail``, the limits of a build, ``compare`` and
the summary of a sweep take their keys, headers and units from :data:`METRICS`. Add a column by
adding a record here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from . import text, units
from .intervals import (
    Bounds,
    faster,
    latency_interval,
    p95_interval,
    settled_speedup,
    slower,
    speedup_interval,
    throughput_interval,
    too_few_rounds,
)
from .units import Unit

if TYPE_CHECKING:
    from .row import Row

MIN_SAMPLES = 10
"""Samples that an agreement needs for a column: over fewer it moves in steps of over 10 points."""
LOST_SHARE = 0.01
"""An agreement or an accuracy this much below the original's is marked as lost: one point."""
LOSSY_SQNR_DB = 30.0
"""Below this an artifact's accuracy is marked as lost: the error's RMS is 3 % of the outputs'."""
GROWTH = 1.01
"""A file, or a parameter count, this much greater than the baseline's is marked as lost."""
ROUNDING_DB = 80.0
"""Above this SQNR an error is float32's own rounding (1e-4 of the outputs and less), which moves by
decibels with every version of a library and means nothing."""


@dataclass(frozen=True)
class Narrow:
    """The narrower form of a column, taken ``rank``-th on a narrow terminal; see ``drop_rank``."""

    rank: int
    header: str
    cell: Callable[[Row], str]


@dataclass(frozen=True)
class Metric:
    """One figure of a row, and how to read, compare and write it.

    Attributes:
        key: its name in flags, in JSON of ``compare`` and in messages.
        header: of its column.
        unit: of its values.
        better: whether less or more of it is better.
        read: the value of a row; ``None`` where it was not measured.
        depends_on: what has to be equal in two reports before their values can be compared.
        aliases: older keys, which flags still take.
        interval: the 95 % interval of the row's value; ``None`` for a figure without noise, or
            with :attr:`drift` alone. Too few rounds give ``None``.
        unsettled: whether the row was measured in too few rounds to have a value.
        drift: the relative difference between two runs of one program on one machine.
        alike: whether the values of two rows differ without meaning.
        default_limit: the change for the worse that ``compare`` allows without ``--fail``, written
            as for that flag; ``None`` allows any.
        follows: the metric that determines this one; ``compare`` then shows this one only if asked.
        in_table: the comparison has a column for it.
        shown: whether the rows of a report have enough of it for a column.
        lost: whether the row, compared with the baseline, is marked as worse.
        contends: whether a row may be marked as the best.
        from_original: the original has no value, since it is what the others are compared with.
        cell: a row's cell where the value alone does not make it; see :class:`Unit`.
        baseline_cell: what the original's cell holds in place of its value.
        refers_to_reason: the cell of a row that was not measured refers to the reason.
        narrow: a narrower form of the column.
        drop_rank: columns of the least rank go first where the terminal is narrow; ``None`` stays.
        drop_rank_quantized: the same in a report that has quantised rows.
    """

    key: str
    header: str
    unit: Unit
    better: Literal["less", "more"]
    read: Callable[[Row], float | None]
    depends_on: Literal["machine", "inputs", "file"]
    aliases: tuple[str, ...] = ()
    interval: Callable[[Row], Bounds | None] | None = None
    unsettled: Callable[[Row], bool] = lambda row: False
    drift: float = 0.0
    alike: Callable[[Row, Row], bool] = lambda one, other: False
    default_limit: str | None = None
    follows: str | None = None
    in_table: bool = True
    shown: Callable[[Sequence[Row]], bool] = lambda rows: True
    lost: Callable[[Row, Row], bool] = lambda row, baseline: False
    contends: Callable[[Row], bool] = lambda row: True
    from_original: bool = False
    cell: Callable[[Row], str] | None = None
    baseline_cell: str | None = None
    refers_to_reason: bool = False
    narrow: Narrow | None = None
    drop_rank: int | None = 0
    drop_rank_quantized: int | None = None

    def write_cell(self, row: Row) -> str:
        """The row's cell in this metric's column."""
        if self.cell is not None:
            return self.cell(row)
        value = self.read(row)
        return text.NOTHING if value is None else self.unit.cell(value)


def _write_speedup(row: Row, *, interval: bool) -> str:
    speedup = settled_speedup(row)
    return text.NOTHING if speedup is None else text.speedup(speedup, interval=interval)


def _grown(read: Callable[[Row], float | None]) -> Callable[[Row, Row], bool]:
    def grown(row: Row, baseline: Row) -> bool:
        own, first = read(row), read(baseline)
        return own is not None and first is not None and own > first * GROWTH

    return grown


def _sqnr(row: Row) -> float | None:
    return row.accuracy.sqnr_db if row.accuracy else None


def _lossy(row: Row, baseline: Row) -> bool:
    sqnr = _sqnr(row)
    return sqnr is not None and not sqnr >= LOSSY_SQNR_DB


def _rounding(one: Row, other: Row) -> bool:
    """Both differ from their original by float32's rounding alone."""
    return all(sqnr is not None and sqnr >= ROUNDING_DB for sqnr in (_sqnr(one), _sqnr(other)))


def _enough_samples(rows: Sequence[Row]) -> bool:
    return any(row.accuracy and (row.accuracy.samples or 0) >= MIN_SAMPLES for row in rows)


def _agreement(key: str, header: str, drop_rank: int, default_limit: str | None) -> Metric:
    """The share of samples that agree with the original's first class."""

    def read(row: Row) -> float | None:
        return getattr(row.accuracy, f"{key}_agreement") if row.accuracy else None

    return Metric(
        key, header, units.SHARE, "more", read, "inputs", default_limit=default_limit,
        shown=lambda rows: _enough_samples(rows) and any(read(row) is not None for row in rows[1:]),
        lost=lambda row, baseline: (read(row) or 0.0) < 1.0 - LOST_SHARE,
        from_original=True, drop_rank=drop_rank,
    )  # fmt: skip


def _accuracy(row: Row) -> float | None:
    return row.accuracy.accuracy if row.accuracy else None


def _less_accurate(row: Row, baseline: Row) -> bool:
    own, first = _accuracy(row), _accuracy(baseline)
    return own is not None and first is not None and own < first - LOST_SHARE


_ALL = (
    Metric(
        "parameters", "parameters", units.COUNT, "less", lambda row: row.parameters, "file",
        default_limit="0", lost=_grown(lambda row: row.parameters), drop_rank=90,
        narrow=Narrow(20, "params", lambda row: text.short(row.parameters)),
    ),
    Metric(
        "batchnorm", "BN", units.COUNT, "less", lambda row: row.batchnorm_layers, "file",
        aliases=("bn",), default_limit="0", lost=_grown(lambda row: row.batchnorm_layers),
        drop_rank=100,
    ),
    Metric(
        "size", "size", units.BYTES, "less", lambda row: row.bytes, "file", aliases=("bytes",),
        default_limit="1%", lost=_grown(lambda row: row.bytes), drop_rank=120,
    ),
    Metric(
        "latency", "median ms", units.MILLISECONDS, "less",
        lambda row: row.latency.median_ms if row.latency else None, "machine", aliases=("median",),
        interval=latency_interval, drift=0.05, default_limit="10%", lost=slower, drop_rank=None,
    ),
    Metric(
        "p95", "p95 ms", units.MILLISECONDS, "less",
        lambda row: row.latency.p95_ms if row.latency else None, "machine",
        interval=p95_interval, drift=0.10, lost=slower, drop_rank=40,
    ),
    Metric(
        "end_to_end", "with copies ms", units.MILLISECONDS, "less",
        lambda row: row.latency.end_to_end_ms if row.latency else None, "machine", drift=0.05,
        shown=lambda rows: any(row.latency and row.latency.end_to_end_ms for row in rows),
        drop_rank=70,
    ),
    Metric(
        "throughput", "samples/s", units.SAMPLES_PER_SECOND, "more",
        lambda row: row.latency.throughput if row.latency else None, "machine",
        interval=throughput_interval, drift=0.05, follows="latency",
        lost=slower, drop_rank=10,
    ),
    Metric(
        "speedup", "speed-up [95 %]", units.TIMES, "more",
        lambda row: speedup.value if (speedup := settled_speedup(row)) else None, "machine",
        interval=speedup_interval, unsettled=too_few_rounds, lost=slower, contends=faster,
        cell=lambda row: _write_speedup(row, interval=True), baseline_cell="baseline",
        refers_to_reason=True, drop_rank=None,
        narrow=Narrow(110, "speed-up", lambda row: _write_speedup(row, interval=False)),
    ),
    Metric(
        "diff", "max |Δ|", units.OUTPUT_UNITS, "less",
        lambda row: row.accuracy.max_abs_diff if row.accuracy else None, "inputs",
        aliases=("max_diff",), alike=_rounding, lost=_lossy, from_original=True, drop_rank=140,
        drop_rank_quantized=60,
    ),
    Metric(
        "sqnr", "SQNR", units.DECIBELS, "more", _sqnr, "inputs", alike=_rounding,
        default_limit="3dB", lost=_lossy, from_original=True, drop_rank=60, drop_rank_quantized=140,
    ),
    _agreement("top1", "top-1", 130, "0"),
    _agreement("top5", "top-5", 50, None),
    Metric(
        "accuracy", "accuracy", units.SHARE, "more", _accuracy, "inputs", default_limit="0",
        shown=lambda rows: any(_accuracy(row) is not None for row in rows), lost=_less_accurate,
        drop_rank=150,
    ),
    Metric(
        "quantized", "quantised MACs", units.SHARE, "more",
        lambda row: row.quantization.quantized_macs_share if row.quantization else None, "file",
        aliases=("int8",), default_limit="1pt", in_table=False,
    ),
    Metric(
        "cold", "cold start ms", units.MILLISECONDS, "less",
        lambda row: row.cold_start.total_ms if row.cold_start else None, "machine",
        drift=0.10, in_table=False,
    ),
    Metric(
        "memory", "peak memory", units.BYTES, "less",
        lambda row: row.cold_start.peak_bytes if row.cold_start else None, "machine",
        drift=0.10, in_table=False,
    ),
)  # fmt: skip
"""In the order of the columns.

Drift was measured between two runs of ``bench`` on two shared cores: medians were 3 to 6 % apart,
p95 3 to 12 %, although the intervals of each run did not overlap. An interval bounds what one
run could have found, not what the machine does an hour later. Speed-ups did not move, since their
baseline drifts along."""

METRICS: dict[str, Metric] = {metric.key: metric for metric in _ALL}
_BY_ALIAS = {alias: metric for metric in _ALL for alias in metric.aliases}

SCORE = "metric."
"""Begins the key of a task metric: ``metric.box_ap``."""


@lru_cache(maxsize=64)
def score_metric(name: str) -> Metric:
    """The metric of one number of a task metric, such as ``box_ap``."""

    def read(row: Row) -> float | None:
        return row.scores.get(name)

    def lost(row: Row, baseline: Row) -> bool:
        own, first = read(row), read(baseline)
        # A point of a share; a hundredth of a greater number.
        return own is not None and first is not None and own < first - LOST_SHARE * max(1.0, first)

    return Metric(
        f"{SCORE}{name}", name, units.NUMBER, "more", read, "inputs", default_limit="1%",
        lost=lost, drop_rank=145,
    )  # fmt: skip


def metrics_of(rows: Sequence[Row]) -> list[Metric]:
    """All metrics, and those of the rows' own task metrics, in the order of the columns."""
    names = dict.fromkeys(name for row in rows for name in row.scores)
    found = []
    for metric in METRICS.values():
        found.append(metric)
        if metric.key == "accuracy":
            found += [score_metric(name) for name in names]
    return found


def find_metric(key: str) -> Metric | None:
    """The metric of a key or of an older key; ``None`` if there is none."""
    if key.startswith(SCORE) and key != SCORE:
        return score_metric(key.removeprefix(SCORE))
    return METRICS.get(key) or _BY_ALIAS.get(key)
