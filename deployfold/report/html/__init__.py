"""The report as one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

from .outline import Outline, read_outline
from .page import render_html

__all__ = ["Outline", "read_outline", "render_html"]
