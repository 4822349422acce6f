"""Makes the report of a build from the results of its stages, and writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deployfold import __version__
from deployfold.config.build_spec import BuildSpec
from deployfold.config.inputs import InputSpec
from deployfold.folding import FoldResult
from deployfold.measuring.environment import describe
from deployfold.reporting.conditions import DynamicAxis, ModelInput, Source
from deployfold.reporting.fold import FoldedNorm, FoldSummary, LeftNorm, Verification
from deployfold.reporting.markdown import render_markdown
from deployfold.reporting.objective import choose_by
from deployfold.reporting.report import (
    REPORT_JSON,
    REPORT_MARKDOWN,
    Report,
    Status,
    now,
    write_report,
)
from deployfold.reporting.row import Row
from deployfold.reporting.thresholds import check
from deployfold.util.files import unwritable, write_text

from .journal import Journal
from .load import Loaded
from .results import Folded
from .rows import unmeasured_rows
from .settings import run_settings


def make_report(
    spec: BuildSpec,
    loaded: Loaded,
    folded: Folded | None,
    rows: Sequence[Row],
    journal: Journal,
    status: Status,
) -> Report:
    """Make the report; ``rows`` are in the order of the table, with the original first."""
    model, inputs = loaded.model, loaded.inputs
    done = status.state == "complete"
    limits = check(rows, spec.thresholds, spec.metric.limits) if done else ()
    chosen = choose_by(spec.choose, rows, limits) if spec.choose and done else None
    if chosen is not None:
        journal.note([chosen.sentence])
    settings = run_settings(spec)
    return Report(
        deployfold_version=__version__,
        created=now(),
        source=Source(
            path=model.source,
            kind=model.kind,
            sha256=model.sha256,
            arch=model.arch,
            bytes=model.bytes,
        ),
        inputs=model_inputs(inputs),
        input_origin=inputs.origin,
        input_data=loaded.input_data,
        fold=None if folded is None else fold_summary(folded.result, loaded.reestimation),
        rows=tuple(rows),
        notes=tuple(journal.notes),
        environment=describe(settings.threads, settings.device),
        thresholds=limits,
        stages=tuple(journal.stages),
        status=status,
        options={key: _plain(value) for key, value in spec.written},
        chosen=chosen,
    )


def _plain(value: Any) -> Any:
    """A written option in the types of JSON."""
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def partial_report(
    spec: BuildSpec, loaded: Loaded, folded: Folded | None, journal: Journal, status: Status
) -> Report:
    """The report of a build that stopped, with everything that the journal has."""
    reason = f"the build stopped at {status.stage}"
    rows = journal.rows or unmeasured_rows(journal.artifacts, reason)
    return make_report(spec, loaded, folded, rows, journal, status)


def model_inputs(inputs: InputSpec) -> tuple[ModelInput, ...]:
    """The report's form of an :class:`~deployfold.config.inputs.InputSpec`."""
    return tuple(
        ModelInput(
            name=name,
            shape=tensor.shape,
            dtype=tensor.dtype,
            dynamic=tuple(
                DynamicAxis(axis=axis, min=low, max=high)
                for axis, (low, high) in sorted(axes.items())
            ),
        )
        for name, tensor, axes in zip(
            inputs.names, inputs.tensors, inputs.dynamic_axes, strict=True
        )
    )


def fold_summary(folded: FoldResult, reestimation: str | None = None) -> FoldSummary:
    """The report's form of a :class:`~deployfold.folding.FoldResult`."""
    verification = folded.verification
    return FoldSummary(
        batchnorm_before=folded.batchnorms_before,
        parameters_before=folded.parameters_before,
        parameters_after=folded.parameters_after,
        folded=tuple(
            FoldedNorm.model_validate(
                {"name": item.name, "rule": item.rule, "into": ", ".join(item.into)}
                | {"kind": item.kind}
            )
            for item in folded.folded
        ),
        left=tuple(LeftNorm(name=item.name, reason=item.reason) for item in folded.left),
        verification=Verification(
            float64_relative_difference=verification.float64_relative,
            native_max_abs_diff=verification.native_max_abs,
            inputs=verification.inputs,
            note=verification.note or None,
        ),
        reestimation=reestimation,
    )


def save_report(report: Report, directory: Path) -> None:
    """Write ``report.json`` and ``report.md`` into ``directory``."""
    write_report(report, directory / REPORT_JSON)
    write_text(directory / REPORT_MARKDOWN, render_markdown(report))


def remove_report(directory: Path) -> None:
    """Remove the report of an earlier build, whose files the new build replaces.

    Raises:
        UsageError: the directory cannot be written.
    """
    for path in (directory / REPORT_JSON, directory / REPORT_MARKDOWN):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error
