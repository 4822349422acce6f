"""The report as one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

from .outline import Outline, read_outline
from .page import check_installed, render_html, render_pages

__all__ = ["Outline", "check_installed", "read_outline", "render_html", "render_pages"]
