"""Computes one increasing fraction of progress from the nested phases of a TensorRT build."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from deployfold.compiling.worker_process import Report


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
        # The number of phases within a step is unknown in advance, so each phase takes half of the
        # rest of the step.
        left = 0.5**self.finished_children
        within = 1.0 - left
        if self.children:
            within += 0.5 * left * max(child.fraction() for child in self.children)
        return (self.done + within) / self.steps


class PhaseTracker:
    """The state of a build, from the calls of TensorRT's ``IProgressMonitor``.

    Phases nest by name. A step of a phase may contain several phases, sequential or concurrent; see
    https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Core/ProgressMonitor.html.
    All methods are thread-safe, as that interface requires.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._fraction = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Record that a phase of ``steps`` steps begins within ``parent``."""
        with self._lock:
            phase = _Phase(name, parent, max(1, steps))
            self._phases[name] = phase
            above = self._phases.get(parent) if parent is not None else None
            if above is not None:
                above.children.append(phase)
            self._report_fraction(name)

    def step(self, name: str, step: int) -> None:
        """Record that a phase has completed ``step``, counted from 0."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is None:
                return
            phase.done = max(phase.done, min(step + 1, phase.steps))
            phase.finished_children = 0
            self._report_fraction(name)

    def finish(self, name: str) -> None:
        """Record that a phase is over, whether or not all its steps were reported."""
        with self._lock:
            phase = self._phases.pop(name, None)
            if phase is None:
                return
            phase.done = phase.steps
            above = self._phases.get(phase.parent) if phase.parent is not None else None
            if above is None or phase not in above.children:
                self._report_fraction(name, root=phase)
                return
            above.children.remove(phase)
            above.finished_children += 1
            self._report_fraction(name)

    def _report_fraction(self, name: str, root: _Phase | None = None) -> None:
        roots = [phase for phase in self._phases.values() if phase.parent not in self._phases]
        if root is not None:
            roots.append(root)
        now = max((phase.fraction() for phase in roots), default=0.0)
        self._fraction = max(self._fraction, now)
        self._report(name, self._fraction)


def make_monitor(trt: Any, report: Report) -> Any:
    """Make an ``IProgressMonitor`` of the library ``trt`` that calls ``report``.

    The monitor never cancels a build. An exception must not reach the library's C++ code, so after
    an exception in ``report`` the build goes on without reports.
    """
    tracker = PhaseTracker(report)

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the library comes at run time
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._failed = False

        def _guard(self, call: Callable[[], None]) -> None:
            if self._failed:
                return
            try:
                call()
            except Exception:
                self._failed = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._guard(lambda: tracker.start(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._guard(lambda: tracker.step(phase_name, step))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._guard(lambda: tracker.finish(phase_name))

    return Monitor()
