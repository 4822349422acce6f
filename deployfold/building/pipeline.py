"""The order of the stages: load, fold, export, lower, compile, measure, report.

Only this module defines the order. Each stage is a function from frozen values to a frozen value,
and the journal keeps the finished parts. A build that fails or is interrupted reports its finished
parts; a killed build leaves no report.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path

from deployfold.config.build_spec import BuildSpec
from deployfold.errors import (
    AccuracyError,
    DeployfoldError,
    Interrupted,
    ThresholdError,
    interrupted,
)
from deployfold.events import Emit, ignore
from deployfold.lowering.keep import check_operators
from deployfold.reporting.report import Report, Status
from deployfold.runtimes.device_choice import resolve_device
from deployfold.util.files import make_directory
from deployfold.util.locks import claimed

from .compile import compile, write_kit
from .export import export
from .file_names import folded_module
from .fold import fold
from .journal import Journal
from .load import load
from .lower import lower
from .measure import measure
from .reference import write_device_files
from .report import make_report, partial_report, remove_report, save_report
from .results import Folded
from .tail import cut_tail
from .tuning import check_tuning


def build(spec: BuildSpec, *, emit: Emit = ignore) -> tuple[Report, Path]:
    """Fold, export, lower, compile, measure and compare a model.

    All artifacts, ``report.json`` and ``report.md`` go to ``spec.output``, or to ``build/<model>``.
    Each file is written completely or not at all. If a stage after loading fails or the build is
    interrupted, the report is written too, and names the stage.

    Returns:
        The report and the directory. :func:`check_outcome` raises if a precision was refused or a
        limit was missed.

    Raises:
        LoadError, FoldError, ExportError, CompileError, MeasureError: the stage failed.
        UsageError: there is no such device, the directory cannot be written, or another build is
            writing to it.
        Interrupted: Ctrl-C, after the report was written.
    """
    resolve_device(spec.device)  # report a missing GPU before any work
    check_tuning(spec)
    if not spec.is_onnx:  # an ONNX may have operators of its own
        check_operators(spec.keep)
    journal = Journal(emit)
    loaded = load(spec, journal)
    directory = spec.output or Path("build") / loaded.name
    make_directory(directory)
    with claimed(directory):
        # A killed build must not leave the report of an earlier build with its own files.
        remove_report(directory)
        folded: Folded | None = None
        try:
            folded = fold(loaded, spec, journal, directory / folded_module(loaded.name))
            write_device_files(loaded, folded, directory)
            exported = export(loaded, folded, directory, spec, journal)
            if not spec.measure:  # nothing runs the two models any more
                loaded, folded = loaded.without_module(), folded.without_module()
                journal.forget_runners()
            exported = cut_tail(exported, loaded, spec, journal)
            lowered = lower(exported, loaded, spec, journal)
            engines = compile(lowered, exported, loaded, spec, journal)
            write_kit(engines, lowered, loaded, directory, journal)
            artifacts = (
                *folded.artifacts, *exported.artifacts, *lowered.artifacts, *engines.artifacts
            )  # fmt: skip
            rows = measure(artifacts, loaded, spec, journal)
            status = Status()
            if lowered.refusal:
                status = Status(state="failed", stage="lower", message=lowered.refusal)
            report = make_report(spec, loaded, folded, rows, journal, status)
            save_report(report, directory)
            return report, directory
        except (Exception, KeyboardInterrupt) as error:
            status = _stopped(error, journal.stage)
            # If writing the report fails too, the user must still see the first error.
            with suppress(Exception):
                save_report(partial_report(spec, loaded, folded, journal, status), directory)
            if interrupted(error):
                raise Interrupted(_kept(journal, directory)) from error
            raise


def _stopped(error: Exception | KeyboardInterrupt, stage: str) -> Status:
    """The status of a build that ``error`` ended."""
    if interrupted(error):
        return Status(state="interrupted", stage=stage)
    if isinstance(error, DeployfoldError):
        return Status(state="failed", stage=stage, message=error.message)
    return Status(state="failed", stage=stage, message=f"internal error: {error}")


def _kept(journal: Journal, directory: Path) -> str:
    """The complete files of an interrupted build, and what to do."""
    made = [one.path for one in journal.artifacts if one.path is not None]
    names = dict.fromkeys(path.name for path in made if path.parent == directory)
    if not names:
        return "No artifact was complete. Run the same command again."
    return (
        f"{directory} keeps the complete artifacts: {', '.join(names)}. deployfold report "
        f"{shlex.quote(str(directory))} shows them; the same command starts from the beginning."
    )


def check_outcome(report: Report) -> None:
    """Raise if a completed build refused a precision or missed a limit.

    Raises:
        AccuracyError: a lowered model was refused; everything else was built.
        ThresholdError: names every missed limit.
    """
    if report.status.state == "failed":
        raise AccuracyError(
            report.status.message or "A lowered model was refused.",
            hint="Everything else was built. If accuracy is the reason, calibrate on data like "
            "that of the deployment, lower --min-sqnr or --min-agreement, or allow fewer "
            "quantised layers with --min-quantized-share.",
        )
    missed = [result for result in report.thresholds if not result.passed]
    if missed:
        names = {row.name for row in report.rows}
        unknown = any(item.row is not None and item.row not in names for item in missed)
        raise ThresholdError(
            "; ".join(item.missed for item in missed) + ".",
            hint=f"The rows are {', '.join(sorted(names))}." if unknown else None,
        )
