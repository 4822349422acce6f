"""Run every artifact on the same inputs: how fast, how close to the original, on what machine."""

from __future__ import annotations
