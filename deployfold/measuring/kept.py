"""Runners that several measurements share, loaded once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from deployfold.runtimes.protocol import Array, Inputs, Runner, Step


class Kept:
    """A runner whose ``close`` waits: :func:`keep` closes it when all measurements are done."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._loaded = False

    def load(self) -> None:
        """Load, the first time; a failure is tried again."""
        if not self._loaded:
            self.runner.load()
            self._loaded = True

    def prepare(self, inputs: Inputs) -> Step:
        """As the runner does."""
        return self.runner.prepare(inputs)

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        """As the runner does."""
        return self.runner.run(inputs)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the runner says of its numbers, if it says anything."""
        return tuple(getattr(self.runner, "notes", ()))

    def close(self) -> None:
        """Nothing yet."""


@contextmanager
def keep(runners: Mapping[str, Runner]) -> Iterator[dict[str, Kept]]:
    """Let several measurements use ``runners``, and close them at the end of the block."""
    try:
        yield {name: Kept(runner) for name, runner in runners.items()}
    finally:
        for runner in runners.values():
            with suppress(Exception):  # what was measured stands
                runner.close()
