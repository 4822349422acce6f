"""Compares two forms of one model layer by layer, and finds the first layer that differs."""

from __future__ import annotations

from .run import compare_files

__all__ = ["compare_files"]
