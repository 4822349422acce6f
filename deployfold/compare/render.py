"""Renders the comparison of two reports for a terminal, as Markdown and as JUnit XML."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from rich.console import Group, RenderableType
from rich.text import Text

from deployfold.errors import first_few
from deployfold.reporting import text
from deployfold.reporting.comparison import Cell, Mark
from deployfold.reporting.details import Grid
from deployfold.reporting.markdown import escape, table_lines
from deployfold.reporting.metrics import find_metric
from deployfold.reporting.terminal import grid_table

from .changes import Change, Changes, Verdict

_MARKS: dict[Verdict, Mark] = {
    "regression": Mark.LOST,
    "worse": Mark.PLAIN,
    "better": Mark.BEST,
    "same": Mark.BASELINE,
    "unjudged": Mark.ABSENT,
    "new": Mark.PLAIN,
}


def changes_renderable(changes: Changes, *, everything: bool = False) -> RenderableType:
    """The figures that moved, and the machines' differences; ``everything`` adds the others."""
    shown = changes.changes if everything else changes.moved
    grid = _grid(shown) if shown else None
    below, verdict = _below(changes, everything), _verdict(changes)
    return framed((changes.old, changes.new), grid, below, verdict, passed=changes.passed)


def framed(
    names: tuple[str, str], grid: Grid | None, below: list[str], verdict: str, *, passed: bool
) -> RenderableType:
    """A comparison: the names of the old and the new, a table, lines below it, and the verdict."""
    lines = [f"{word}  {name}" for word, name in zip(("old", "new"), names, strict=True)]
    return Group(
        *(Text(line, style="dim") for line in lines),
        Text(),
        *((grid_table(grid), Text()) if grid else ()),
        *(Text(line, style="dim") for line in below),
        Text(verdict, style="bold green" if passed else "bold red"),
    )


def changes_markdown(changes: Changes) -> str:
    """The comparison as Markdown for a pull request; unchanged figures are folded away."""
    lines = [f"### {escape(_verdict(changes))}", ""]
    if changes.moved:
        lines += [*grid_markdown(_grid(changes.moved)), ""]
    rest = tuple(change for change in changes.changes if change not in changes.moved)
    names = (f"old: {changes.old}", f"new: {changes.new}")
    lines += [f"- {escape(line)}" for line in (*_below(changes, True), *names)]
    if rest:
        summary = f"<summary>{len(rest)} other figures</summary>"
        lines += ["", "<details>", summary, "", *grid_markdown(_grid(rest)), "", "</details>"]
    return "\n".join(lines) + "\n"


def changes_junit(changes: Changes) -> str:
    """JUnit XML with one test case per metric of a row, and one per absolute limit.

    Unjudged figures are skipped tests with the reason.
    """
    suite = ElementTree.Element("testsuite", name="deployfold compare")
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (("old", changes.old), ("new", changes.new)):
        ElementTree.SubElement(properties, "property", name=name, value=text.clean(value))
    for change in changes.changes:
        case = _case(suite, change.row or change.title, change.metric)
        if change.verdict == "regression" or change in changes.failing_unjudged:
            _tell(case, "failure", _sentence(change))
        elif change.verdict in ("unjudged", "new"):
            _tell(case, "skipped", change.reason or "there is nothing to compare it with")
    for limit in changes.limits:
        case = _case(suite, limit.row or "any row", limit.name)
        if not limit.passed:
            _tell(case, "failure", limit.missed)
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
    suite.set("skipped", str(sum(case.find("skipped") is not None for case in cases)))
    suite.set("errors", "0")
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    xml = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{xml}\n'


def regression_sentences(changes: Changes) -> list[str]:
    """Every regression, every missed limit and every unjudged figure that fails, in words."""
    return [
        *(
            f"{text.clean(change.row) or change.title} {_sentence(change)}"
            for change in (*changes.regressions, *changes.failing_unjudged)
        ),
        *(text.clean(limit.missed) for limit in changes.limits if not limit.passed),
    ]


def _verdict(changes: Changes) -> str:
    counts = {
        "regression{}": len(changes.regressions),
        "limit{} missed": sum(not limit.passed for limit in changes.limits),
        "figure{} with a limit unjudged": len(changes.failing_unjudged),
    }
    parts = [
        f"{count} {words.format('' if count == 1 else 's')}"
        for words, count in counts.items()
        if count
    ]
    return ", ".join(parts) or "No regression"


def _grid(changes: tuple[Change, ...]) -> Grid:
    rows = []
    title = None
    for change in changes:
        mark = _MARKS[change.verdict]
        name = "" if change.title == title else change.title  # once per row
        title = change.title
        rows.append(
            (
                Cell(name),
                Cell(change.metric),
                _value(change, change.old),
                _value(change, change.new),
                Cell(_change(change), mark),
                Cell(_word(change), mark),
            )
        )
    return Grid(
        "",
        ("artifact", "metric", "old", "new", "change", "verdict"),
        (False, False, True, True, True, False),
        tuple(rows),
    )


def _value(change: Change, value: float | None) -> Cell:
    metric = find_metric(change.metric)
    if value is None or metric is None:
        return Cell(text.NOTHING, Mark.ABSENT)
    return Cell(metric.unit.write(value))


def _change(change: Change) -> str:
    """``+12.3 %``, or the difference for values that are shares or logarithms already."""
    if change.old is None or change.new is None:
        return ""
    if not math.isfinite(change.old) or not math.isfinite(change.new):
        return ""
    metric = find_metric(change.metric)
    if metric is not None and metric.unit.change is not None:
        return metric.unit.change(change.new - change.old)
    relative = change.relative
    return "" if relative is None else f"{100 * relative:+.1f} %"


def _word(change: Change) -> str:
    if change.verdict == "unjudged":
        return "unjudged"  # the reason is below the table
    if change.reason is not None:
        alone = change.verdict == "new"
        return text.clean(change.reason if alone else f"{change.verdict}: {change.reason}")
    if change.verdict == "new":
        return "a new row"
    if change.limit is None or change.verdict in ("better", "same"):
        return change.verdict
    within = "over" if change.verdict == "regression" else "within"
    return f"{change.verdict}, {within} {change.limit}"


def _sentence(change: Change) -> str:
    if change.reason is not None:
        return text.clean(f"{change.metric}: {change.reason}")
    by = f" ({difference})" if (difference := _change(change)) else ""
    moved = f"{_value(change, change.old)} to {_value(change, change.new)}{by}"
    return f"{change.metric} went from {moved}, limit {change.limit}"


def _below(changes: Changes, everything: bool) -> list[str]:
    lines = []
    same = sum(change.verdict == "same" for change in changes.changes)
    if same:
        more = "" if everything else " (--verbose shows them)"
        lines.append(f"{same} figures did not move beyond noise{more}")
    if changes.differences:
        lines.append(f"Differences: {'; '.join(changes.differences)}")
    lines += _unjudged(changes)
    return lines


def _unjudged(changes: Changes) -> list[str]:
    """The unjudged figures, one line per reason."""
    by_reason: dict[str, list[Change]] = {}
    for change in changes.unjudged:
        by_reason.setdefault(change.reason or "", []).append(change)
    lines = []
    for reason, found in by_reason.items():
        by_metric: dict[str, list[str]] = {}
        for change in found:
            by_metric.setdefault(change.metric, []).append(change.title)
        figures = [f"{metric} of {first_few(rows, 3)}" for metric, rows in by_metric.items()]
        lines.append(f"Unjudged: {'; '.join(figures)} ({text.clean(reason)})")
    limited = sum(change.limit is not None for change in changes.unjudged)
    if limited and not changes.strict:
        plural = "" if limited == 1 else "s"
        lines.append(f"--strict fails for the {limited} unjudged figure{plural} with a limit")
    return lines


def grid_markdown(grid: Grid) -> list[str]:
    """The lines of a table; the last cell of a row that lost is bold."""
    rows = [[escape(str(cell)) for cell in row] for row in grid.rows]
    for cells, row in zip(rows, grid.rows, strict=True):
        if row[-1].mark is Mark.LOST:
            cells[-1] = f"**{cells[-1]}**"
    return table_lines(grid.headers, grid.numeric, rows)


def _case(suite: ElementTree.Element, row: str, metric: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=text.clean(row), name=metric)


def _tell(case: ElementTree.Element, tag: str, message: str) -> None:
    ElementTree.SubElement(case, tag, message=text.clean(message))
