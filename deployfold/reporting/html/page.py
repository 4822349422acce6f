"""From one report, or several, to the text of one page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from importlib import resources
from importlib.util import find_spec

from deployfold.errors import UsageError
from deployfold.reporting import text
from deployfold.reporting.overview import overview_grid, report_names
from deployfold.reporting.report import Report

from .outline import Outline

Pages = Sequence[tuple[Report, Outline | None]]
"""Reports, each with the outline of its exported graph where there is one."""


FRAME_HEIGHT = 900
"""Pixels that a page has in a notebook, where it scrolls."""


def is_installed() -> bool:
    """Whether the package that writes the page is here."""
    return find_spec("jinja2") is not None


def check_installed() -> None:
    """Check for the package that writes the page, before anything is built or measured.

    Raises:
        UsageError: jinja2 is not installed.
    """
    if not is_installed():
        raise UsageError("The HTML report needs jinja2.", hint="pip install 'deployfold[report]'.")


def render_html(report: Report, outline: Outline | None = None) -> str:
    """``report.html``: what to take, the chart to decide by, the comparison, and all details.

    One file without scripts, which loads nothing. Names are escaped. Equal reports give equal
    files.

    Args:
        outline: of the exported graph, where there is one.

    Raises:
        UsageError: jinja2 is not installed.
    """
    return render_pages([(report, outline)])


def render_frame(report: Report) -> str:
    """The page in an ``<iframe>``, so that its style and that of a notebook stay apart.

    The page in a frame has no links, since they would lead to the notebook's address.

    Raises:
        UsageError: jinja2 is not installed.
    """
    page = escape(render_pages([(report, None)], links=False))
    style = f"border:0;width:100%;height:{FRAME_HEIGHT}px"
    return f'<iframe sandbox title="deployfold report" style="{style}" srcdoc="{page}"></iframe>'


def render_pages(pages: Pages, *, links: bool = True) -> str:
    """One page of several reports: an overview, and each report below it.

    Args:
        links: whether each report begins with links to its sections.

    Raises:
        UsageError: jinja2 is not installed.
    """
    check_installed()
    import jinja2
    from markupsafe import Markup

    from .view import view

    files = resources.files(__package__)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(lambda name: files.joinpath(name).read_text("utf-8")),
    )  # fmt: skip
    environment.filters["clean"] = text.clean
    environment.filters["unbroken"] = _unbroken
    reports = [report for report, _ in pages]
    page: str = environment.get_template("page.html").render(
        title=text.clean(reports[0].source.path) if len(pages) == 1 else f"{len(pages)} reports",
        style=Markup(files.joinpath("style.css").read_text("utf-8")),
        views=[view(report, outline) for report, outline in pages],
        names=report_names(reports),
        overview=overview_grid(reports) if len(pages) > 1 else None,
        links=links,
    )
    return page.strip() + "\n"


def _unbroken(sentence: str) -> str:
    """The sentence with its intervals, such as ``[1.46, 2.28]``, each on one line."""
    return re.sub(r"\[(\S+), (\S+)\]", "[\\1,\u00a0\\2]", sentence)
