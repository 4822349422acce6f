"""Renders a comparison of layers for a terminal and as Markdown."""

from __future__ import annotations

import math

from rich.console import RenderableType

from deployfold.compare.render import framed, grid_markdown
from deployfold.errors import first_few
from deployfold.reporting import text
from deployfold.reporting.comparison import Cell, Mark
from deployfold.reporting.details import Grid
from deployfold.reporting.markdown import escape

from .result import LayerComparison, LayerDifference


def layers_renderable(found: LayerComparison) -> RenderableType:
    """Every layer, with a mark at the first one beyond the limits, and the layers not compared."""
    names = (
        f"{text.clean(found.old)} ({found.old_precision})",
        f"{text.clean(found.new)} ({found.new_precision})",
    )
    return framed(names, _grid(found), _below(found), verdict(found), passed=found.passed)


def layers_markdown(found: LayerComparison) -> str:
    """The comparison as Markdown for a pull request."""
    lines = [f"### {escape(verdict(found))}", ""]
    lines += [*grid_markdown(_grid(found)), ""]
    names = (f"old: {found.old}", f"new: {found.new}")
    lines += [f"- {escape(text.clean(line))}" for line in (*names, *_below(found))]
    return "\n".join(lines) + "\n"


def verdict(found: LayerComparison) -> str:
    """A sentence on the first layer that misses a limit."""
    if found.passed:
        return f"No layer departs: all {len(found.layers)} keep {_limits(found)}."
    first, count = found.departing[0], len(found.departing)
    folded = f" (with {text.clean(first.folded)} folded in)" if first.folded else ""
    place = found.layers.index(first) + 1
    return (
        f"The first layer that departs is {text.clean(first.name)}{folded}, number {place} of "
        f"{len(found.layers)}: {first.departs}; {count} depart{'s' if count == 1 else ''} in all."
    )


def _grid(found: LayerComparison) -> Grid:
    first = next(iter(found.departing), None)
    return Grid(
        "",
        ("layer", "kind", "shape", "max |Δ|", "SQNR dB", "cosine", ""),
        (False, False, False, True, True, True, False),
        tuple(_row(layer, layer is first) for layer in found.layers),
    )


def _row(layer: LayerDifference, first: bool) -> tuple[Cell, ...]:
    mark = Mark.LOST if layer.departs else Mark.PLAIN
    written = [text.NOTHING] * 3
    if layer.max_abs_diff is not None and layer.sqnr_db is not None and layer.cosine is not None:
        written = [
            text.difference(layer.max_abs_diff),
            text.decibels(layer.sqnr_db).removesuffix(" dB"),
            "NaN" if math.isnan(layer.cosine) else f"{layer.cosine:.6f}",
        ]
    return (
        Cell(text.clean(layer.name), mark if first else Mark.PLAIN),
        Cell(text.clean(layer.kind)),
        Cell("x".join(map(str, layer.shape)) or "scalar"),
        *(Cell(one, mark) for one in written),
        Cell("◀ first" if first else "", mark),
    )


def _limits(found: LayerComparison) -> str:
    most = "" if found.max_diff is None else f" and max |Δ| of {found.max_diff:g} at most"
    return f"an SQNR of {found.min_sqnr_db:g} dB or more{most}"


def _below(found: LayerComparison) -> list[str]:
    lines = [f"Input: {found.input_data}", f"A layer departs that does not keep {_limits(found)}"]
    if any(layer.folded for layer in found.layers) or found.skipped:
        count = len(found.skipped)
        lines.append(
            "BatchNorms folded in one file: compared after the layer that took them up; "
            f"{count} tensor{'' if count == 1 else 's'} in between left out"
        )
    if found.alone:
        names = first_few([text.clean(name) for name in found.alone], 5)
        lines.append(f"Not found in the new file: {names}")
    return lines
