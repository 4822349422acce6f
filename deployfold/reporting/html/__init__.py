"""The report as one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

from .outline import Outline, read_outline
from .page import check_installed, is_installed, render_frame, render_html, render_pages

__all__ = [
    "Outline",
    "check_installed",
    "is_installed",
    "read_outline",
    "render_frame",
    "render_html",
    "render_pages",
]
