"""From a builder's nested phases to one fraction that never goes back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Report = Callable[[str, float], None]
"""Takes the name of the innermost phase and the fraction of the whole build, 0 to 1."""


@dataclass(eq=False)
class _Phase:
    name: str
    parent: str | None
    steps: int
    done: int = 0
    finished_children: int = 0
    children: list[_Phase] = field(default_factory=list)

    def fraction(self) -> float:
        if self.done >= self.steps:
            return 1.0
        # How many phases run within one step is not known before they start: each takes half of
        # what is left of the step.
        left = 0.5**self.finished_children
        within = 1.0 - left
        if self.children:
            within += 0.5 * left * max(child.fraction() for child in self.children)
        return (self.done + within) / self.steps


class PhaseTracker:
    """Follows the calls of TensorRT's ``IProgressMonitor``.

    Phases nest by name, and a step of a phase may hold several phases, one after another or, from
    several threads, at once; see
    https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Core/ProgressMonitor.html.
    Thread-safe, as that interface asks.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._fraction = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of ``steps`` steps begins within ``parent``."""
        with self._lock:
            phase = _Phase(name, parent, max(1, steps))
            self._phases[name] = phase
            above = self._phases.get(parent) if parent is not None else None
            if above is not None:
                above.children.append(phase)
            self._tell(name)

    def step(self, name: str, step: int) -> None:
        """The phase has completed ``step``, counted from 0."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is None:
                return
            phase.done = max(phase.done, min(step + 1, phase.steps))
            phase.finished_children = 0
            self._tell(name)

    def finish(self, name: str) -> None:
        """The phase is over, whether or not all its steps were reported."""
        with self._lock:
            phase = self._phases.pop(name, None)
            if phase is None:
                return
            phase.done = phase.steps
            above = self._phases.get(phase.parent) if phase.parent is not None else None
            if above is None or phase not in above.children:
                self._tell(name, root=phase)
                return
            above.children.remove(phase)
            above.finished_children += 1
            self._tell(name)

    def _tell(self, name: str, root: _Phase | None = None) -> None:
        roots = [phase for phase in self._phases.values() if phase.parent not in self._phases]
        if root is not None:
            roots.append(root)
        now = max((phase.fraction() for phase in roots), default=0.0)
        self._fraction = max(self._fraction, now)
        self._report(name, self._fraction)


def make_monitor(trt: Any, report: Report) -> Any:
    """An ``IProgressMonitor`` of the library ``trt`` that calls ``report``; it never cancels.

    An exception must not reach the library's C++ code, so one raised by ``report`` ends the
    reports and not the build.
    """
    tracker = PhaseTracker(report)

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the library comes at run time
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._silent = False

        def _guard(self, call: Callable[[], None]) -> None:
            if self._silent:
                return
            try:
                call()
            except Exception:
                self._silent = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._guard(lambda: tracker.start(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._guard(lambda: tracker.step(phase_name, step))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._guard(lambda: tracker.finish(phase_name))

    return Monitor()
