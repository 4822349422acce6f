"""From a report to the text of the page."""

from __future__ import annotations

from importlib import resources
from importlib.metadata import version
from importlib.util import find_spec

from deployfold.errors import UsageError
from deployfold.reporting import text
from deployfold.reporting.columns import columns
from deployfold.reporting.footnotes import footnotes
from deployfold.reporting.grids import cold_start_grid, layer_grids, stages_grid, sweep_grid
from deployfold.reporting.markdown import SHOWN
from deployfold.reporting.model import Report
from deployfold.reporting.summary import summary_lines

from .outline import Outline

_HINT = "pip install 'deployfold[report]'."


def check_installed() -> None:
    """Say what the page lacks, before anything is built or measured for it.

    Raises:
        UsageError: jinja2 or matplotlib is not installed.
    """
    for name in ("jinja2", "matplotlib"):
        if find_spec(name) is None:
            raise UsageError(f"The HTML report needs {name}.", hint=_HINT)


def render_html(report: Report, outline: Outline | None = None) -> str:
    """``report.html``: the comparison, charts, what was folded, the graph, and the report's JSON.

    One file without scripts, which loads nothing. Names are escaped. Equal reports give equal
    files.

    Args:
        outline: of the exported graph, where there is one.

    Raises:
        UsageError: jinja2 or matplotlib is not installed.
    """
    check_installed()
    import jinja2

    from . import charts

    notes = footnotes(report)
    made = columns(report, notes)
    shown = [made[key] for key in SHOWN if key in made]
    quantised = [row for row in report.rows if row.int8 and row.int8.layers]
    layers = [
        (grid, charts.layer_chart(row.int8.layers if row.int8 else ()))
        for grid, row in zip(layer_grids(report), quantised, strict=True)
    ]
    drawn = {
        "Latency": charts.latency_chart(report),
        "Size": charts.size_chart(report),
        "Parameters": charts.parameter_chart(report),
    }
    source = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["clean"] = text.clean
    page: str = environment.from_string(source).render(
        report=report,
        version=version("deployfold"),
        lines=summary_lines(report),
        columns=shown,
        rows=list(zip(*(column.cells for column in shown), strict=True)),
        notes=notes,
        grids=[grid for grid in (sweep_grid(report), cold_start_grid(report)) if grid],
        stages=stages_grid(report),
        charts={title: svg for title, svg in drawn.items() if svg},
        layers=layers,
        outline=outline,
        json=report.to_json(),
    )
    return page + "\n"
