"""From a report to the text of the page."""

from __future__ import annotations

from importlib import resources
from importlib.metadata import version
from importlib.util import find_spec

from deployfold.errors import UsageError
from deployfold.reporting import text
from deployfold.reporting.comparison import columns
from deployfold.reporting.details import cold_start_grid, layer_grids, stages_grid, sweep_grid
from deployfold.reporting.footnotes import footnotes
from deployfold.reporting.report import Report
from deployfold.reporting.summary import summary_lines

from .outline import Outline

_HINT = "pip install 'deployfold[report]'."


def check_installed() -> None:
    """Check for the packages that draw the page, before anything is built or measured.

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
    shown = columns(report, notes)
    summaries = [row.quantization for row in report.rows if row.quantization]
    layers = [
        (grid, charts.layer_chart(summary.layers))
        for grid, summary in zip(
            layer_grids(report), (one for one in summaries if one.layers), strict=True
        )
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
