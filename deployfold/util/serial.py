"""The lock around torch's functions that are not thread-safe."""

from __future__ import annotations

import threading

ONE_AT_A_TIME = threading.RLock()
"""Torch's tracer, its exporters and its reader of ``.pt2`` files keep state in module variables
while they run, so only one thread may run them at a time."""
