"""The report of a build: its schema, its metrics, and its renderings."""

from __future__ import annotations
