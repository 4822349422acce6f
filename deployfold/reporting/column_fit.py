"""Chooses the columns of the comparison that fit a terminal, and their widths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

from rich.cells import cell_len

from .comparison import Column, Comparison, MetricColumn
from .metrics import Metric

WIDE_GAP = 2
"""Spaces between columns, where there is room."""
_TITLE_RANKS = ((30, 28), (80, 16), (160, 10))
"""When titles are wrapped, to how many cells; ranked with the columns' ``drop_rank``."""
_GAP_RANK = 70
"""When columns move together, to one space between them."""


@dataclass(frozen=True)
class Layout:
    """The columns that a table shows, the width of the titles, and the gap between columns."""

    titles: Column
    metrics: tuple[MetricColumn, ...]
    title_width: int
    gap: int

    @property
    def columns(self) -> tuple[Column, ...]:
        return (self.titles, *self.metrics)

    @property
    def total(self) -> int:
        """Cells that the table takes."""
        widths = [self.title_width, *map(_width, self.metrics)]
        return sum(widths) + self.gap * (len(widths) - 1)


def fit(available: Comparison, width: int, *, quantized: bool) -> Layout:
    """The columns for ``width`` cells: what gives way first has the least rank."""
    layout = Layout(available.titles, available.metrics, _width(available.titles), WIDE_GAP)
    changes = _changes(available.metrics, quantized=quantized)
    for _, change in sorted(changes, key=lambda step: step[0]):
        over = layout.total - width
        if over <= 0:
            break
        layout = change(layout, over)
    return layout


def _changes(
    shown: tuple[MetricColumn, ...], *, quantized: bool
) -> Iterator[tuple[int, Callable[[Layout, int], Layout]]]:
    """Every change that makes the table narrower, with its rank; titles never go."""
    yield _GAP_RANK, lambda layout, over: replace(layout, gap=1)
    for title_rank, least in _TITLE_RANKS:
        yield title_rank, partial(_wrap_titles, least)
    for column in shown:
        metric, narrow = column.metric, column.narrow
        if narrow is not None and metric.narrow is not None:
            yield metric.narrow.rank, partial(_exchange, metric, (narrow,))
        rank = metric.drop_rank
        if quantized:
            rank = metric.drop_rank_quantized or rank
        if rank is not None:
            yield rank, partial(_exchange, metric, ())


def _wrap_titles(least: int, layout: Layout, over: int) -> Layout:
    width = layout.title_width
    return replace(layout, title_width=max(min(width, least), width - over))


def _exchange(metric: Metric, new: tuple[MetricColumn, ...], layout: Layout, over: int) -> Layout:
    """The layout with ``new`` in place of the metric's column."""
    metrics = [new if one.metric is metric else (one,) for one in layout.metrics]
    return replace(layout, metrics=tuple(chain.from_iterable(metrics)))


def _width(column: Column) -> int:
    return max(cell_len(value) for value in (column.header, *map(str, column.cells)))
