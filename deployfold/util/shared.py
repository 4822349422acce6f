"""A change of the whole process that several threads may want at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class SharedChange:
    """A change that the first thread makes and the last one takes back.

    Were each thread to restore what it found, two of them could leave the change behind for good.

    Args:
        make: makes the change and returns the function that takes it back.
    """

    def __init__(self, make: Callable[[], Callable[[], object]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._users = 0
        self._undo: Callable[[], object] = lambda: None

    @contextmanager
    def made(self) -> Iterator[None]:
        """Have the change made within the block."""
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
