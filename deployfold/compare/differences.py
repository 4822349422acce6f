"""What was not the same when two reports were measured: machine, threads, inputs, libraries."""

from __future__ import annotations

from deployfold.reporting import text
from deployfold.reporting.model import Report


def differences(old: Report, new: Report) -> tuple[list[str], list[str], list[str]]:
    """Sentences: of the machine, of the inputs, and of what explains and forbids nothing."""
    first, second = old.environment, new.environment
    machine = [
        f"{what} {_said(before)}, then {_said(after)}"
        for what, before, after in (
            ("CPU", first.cpu, second.cpu),
            ("GPU", first.gpu, second.gpu),
            ("threads", first.threads, second.threads),
        )
        if before != after
    ]
    inputs = []
    shapes = [[(i.shape, i.dtype) for i in report.inputs] for report in (old, new)]
    if shapes[0] != shapes[1]:
        said = [", ".join(f"{'x'.join(map(str, s))} {d}" for s, d in one) for one in shapes]
        inputs.append(f"{_SHAPES} {_said(said[0])}, then {_said(said[1])}")
    if old.input_data != new.input_data:
        inputs.append(f"inputs hold {_said(old.input_data)}, then {_said(new.input_data)}")
    names = sorted({*first.packages, *second.packages} - {"deployfold"})
    notes = [
        f"{name} {_said(first.packages.get(name))}, then {_said(second.packages.get(name))}"
        for name in names
        if first.packages.get(name) != second.packages.get(name)
    ]
    if old.source.sha256 != new.source.sha256 and old.source.sha256 and new.source.sha256:
        notes.append("the model's file is another")
    return machine, inputs, [text.clean(note) for note in notes]


_SHAPES = "inputs are"


def shapes_of(inputs: list[str]) -> list[str]:
    """Of the differences of inputs, those that change how long a row takes."""
    return [one for one in inputs if one.startswith(_SHAPES)]


def _said(value: object) -> str:
    return "none" if value is None else text.clean(str(value))
