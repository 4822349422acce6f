"""The report of a build: its schema, and its renderings for terminal and Markdown."""

from __future__ import annotations
