"""The HTML page in Chromium: no text overlaps or is cut, on a desktop and on a phone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictured import BROWSER, run_chromium, text_problems
from PIL import Image
from rendered import hostile_report
from report_sample import crowded_report, full_report, sample_report, with_quantiles

from deployfold.reporting.html import decide, render_html, render_pages

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium"),
]

WIDTHS = (1400, 390)
PAGES = {
    "sample": lambda: render_html(with_quantiles(sample_report())),
    "everything": lambda: render_html(with_quantiles(full_report())),
    "crowded": lambda: render_html(crowded_report()),
    "hostile": lambda: render_html(hostile_report()),
    "several": lambda: render_pages([(full_report(), None), (crowded_report(), None)]),
}


@pytest.mark.parametrize("name", PAGES)
def test_no_text_overlaps_or_is_cut(name: str, tmp_path: Path) -> None:
    assert text_problems(PAGES[name](), tmp_path, *WIDTHS) == {width: [] for width in WIDTHS}


@pytest.mark.parametrize(
    ("style", "problem"),
    [
        ("svg text { font-size: 64px !important; }", "overlap"),
        ("h1 { white-space: nowrap; font-size: 9rem; }", "cut"),
        (".cards { overflow: hidden; } .cards table { width: 1600px; }", "cut"),
        (".cards table { width: 1600px; }", "sideways"),
    ],
)
def test_a_broken_page_is_noticed(style: str, problem: str, tmp_path: Path) -> None:
    page = render_html(crowded_report()).replace("</style>", f"{style}</style>")
    assert any(problem in one for one in text_problems(page, tmp_path, 390)[390])


def test_lanes_that_are_too_narrow_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "LANE", 3.0)
    found = text_problems(render_html(crowded_report()), tmp_path, 1400)[1400]
    assert any("overlap: TensorRT" in one for one in found)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_renders_in_light_and_dark(width: int, scheme: str, tmp_path: Path) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    page.write_text(render_html(with_quantiles(full_report())), encoding="utf-8")
    run_chromium(page, width, scheme, f"--screenshot={picture}")
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape == (900, width)
    paper = np.median(pixels)
    assert (paper < 60) if scheme == "dark" else (paper > 200)
    assert (abs(pixels.astype(int) - paper) > 100).mean() > 0.01  # there is ink on it
