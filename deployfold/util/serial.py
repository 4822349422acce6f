"""The lock around what torch does for one thread at a time."""

from __future__ import annotations

import threading

ONE_AT_A_TIME = threading.RLock()
"""Torch's tracer, its exporters and its reader of ``.pt2`` files keep their state in variables of
torch's modules while they run: two threads at once disturb each other."""
