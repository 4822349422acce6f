"""Reads the renderings of a report in tests, and makes a report in which every text is hostile."""

from __future__ import annotations

from io import StringIO

from markdown_it import MarkdownIt
from markdown_it.token import Token
from report_sample import sample_report
from rich.console import Console, RenderableType
from rich.segment import Segment

from deployfold.reporting.report import Report, Status

HOSTILE = "[red]x[/red]\x1b[2J\x1b]8;;http://e\x07\n| a | b \u202e\ud800"


def plain(renderable: RenderableType, width: int) -> str:
    console = Console(file=StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(renderable)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in output.splitlines()) + "\n"


def styled(renderable: RenderableType, width: int) -> list[tuple[str, str]]:
    """Every stretch of text with its style."""
    console = Console(file=StringIO(), width=width)
    segments: list[Segment] = [s for s in console.render(renderable) if s.text.strip()]
    return [(segment.text.strip(), str(segment.style)) for segment in segments]


def parse(text: str) -> list[Token]:
    return MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)


def tables(tokens: list[Token]) -> list[list[list[str]]]:
    """Text of every cell, by table and row."""
    found: list[list[list[str]]] = []
    for index, token in enumerate(tokens):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("th_open", "td_open"):
            children = tokens[index + 1].children or []
            found[-1][-1].append("".join(child.content for child in children))
    return found


def hostile_report() -> Report:
    report = sample_report()
    rows = tuple(
        row.model_copy(update={"title": HOSTILE, "notes": (HOSTILE,)}) for row in report.rows
    )
    fold = report.fold
    assert fold is not None
    return report.model_copy(
        update={
            "rows": rows,
            "notes": (HOSTILE,),
            "source": report.source.model_copy(update={"path": HOSTILE, "arch": HOSTILE}),
            "fold": fold.model_copy(
                update={
                    "left": (fold.left[0].model_copy(update={"name": HOSTILE, "reason": HOSTILE}),)
                }
            ),
            "status": Status(state="failed", stage="export", message=HOSTILE),
        }
    )
