"""Guards what all threads of a process share: torch's module variables, and changed settings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ONE_AT_A_TIME = threading.RLock()
"""Torch's tracer, its exporters and its reader of ``.pt2`` files keep state in module variables
while they run, so only one thread may run them at a time."""


class SharedChange:
    """A change that the first thread makes and the last one undoes.

    If each thread restored the state that it found, two overlapping threads could leave the change
    in place.

    Args:
        make: makes the change and returns the function that undoes it.
    """

    def __init__(self, make: Callable[[], Callable[[], object]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._users = 0
        self._undo: Callable[[], object] = lambda: None

    @contextmanager
    def made(self) -> Iterator[None]:
        """Make the change for the duration of the block."""
        with self._lock:
            if not self._users:
                self._undo = self._make()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._undo()
