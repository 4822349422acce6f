"""Finds the differences in the conditions of two reports, which make figures incomparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployfold.reporting import text
from deployfold.reporting.report import Report


@dataclass(frozen=True)
class Differences:
    """The different conditions of two reports, in sentences.

    Attributes:
        machine: differences of CPU, GPU and threads, on which times depend.
        shapes: differences of the input shapes, on which times and accuracy depend.
        values: differences of the input values, on which accuracy depends.
        others: differences of library versions and of the model's file, which may explain a change.
    """

    machine: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def between(self, depends_on: str) -> list[str]:
        """The differences that make a metric incomparable; see ``Metric.depends_on``."""
        forbidding = {
            "machine": self.machine + self.shapes,
            "inputs": self.shapes + self.values,
            "file": [],
        }
        return forbidding[depends_on]

    @property
    def sentences(self) -> tuple[str, ...]:
        """All differences, the most important first."""
        return (*self.machine, *self.shapes, *self.values, *self.others)


def differences(old: Report, new: Report) -> Differences:
    """Compare the machines, the inputs and the libraries of two reports."""
    first, second = old.environment, new.environment
    pairs = {
        "CPU": (first.cpu, second.cpu),
        "GPU": (first.gpu, second.gpu),
        "threads": (first.threads, second.threads),
    }
    packages = sorted({*first.packages, *second.packages} - {"deployfold"})
    others = _changed(
        {name: (first.packages.get(name), second.packages.get(name)) for name in packages}
    )
    if old.source.sha256 != new.source.sha256 and old.source.sha256 and new.source.sha256:
        others.append("the model's file is another")
    return Differences(
        machine=_changed(pairs),
        shapes=_changed({"inputs are": (_shapes(old), _shapes(new))}),
        values=_changed({"inputs hold": (old.input_data, new.input_data)}),
        others=others,
    )


def _changed(pairs: Mapping[str, tuple[object, object]]) -> list[str]:
    return [
        text.clean(f"{name} {_word(before)}, then {_word(after)}")
        for name, (before, after) in pairs.items()
        if before != after
    ]


def _shapes(report: Report) -> str:
    shapes = [f"{'x'.join(map(str, one.shape))} {one.dtype}" for one in report.inputs]
    return ", ".join(shapes)


def _word(value: object) -> str:
    return "none" if value is None else str(value)
