"""Measures every artifact on the same inputs: latency, accuracy, cold start, stability."""

from __future__ import annotations
