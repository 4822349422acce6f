"""Shares loaded runners among several measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from deployfold.runtimes.protocol import Inputs, Runner, Step
from deployfold.util.arrays import Array


class SharedRunner:
    """A runner that stays loaded: :func:`shared` closes it when all measurements are done."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._loaded = False

    def load(self) -> None:
        """Load the runner unless it is loaded. A failed load is repeated by the next call."""
        if not self._loaded:
            self.runner.load()
            self._loaded = True

    def prepare(self, inputs: Inputs) -> Step:
        """See :class:`~deployfold.runtimes.protocol.Runner`."""
        return self.runner.prepare(inputs)

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        """See :class:`~deployfold.runtimes.protocol.Runner`."""
        return self.runner.run(inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)  # what a runner may have, such as notes

    def close(self) -> None:
        """Do nothing, because another measurement may follow."""


@contextmanager
def shared(runners: Mapping[str, Runner]) -> Iterator[dict[str, SharedRunner]]:
    """Let several measurements use ``runners``, and close them at the end of the block."""
    try:
        yield {name: SharedRunner(runner) for name, runner in runners.items()}
    finally:
        for runner in runners.values():
            with suppress(Exception):  # a failure here does not affect the measurements
                runner.close()
