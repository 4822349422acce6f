"""The order of the stages: load, fold, export, lower, compile, measure, report.

This is the only place where the order stands. Each stage takes what the one before it made. However
a build ends, its report says what was finished; one that is killed leaves none.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from deployfold.building.compile import compile_stage, kit_stage
from deployfold.building.export import export_stage
from deployfold.building.lower import lower_stage
from deployfold.building.reference import device_stage
from deployfold.building.report import make_report, remove_report
from deployfold.building.rows import unmeasured_rows
from deployfold.building.stages import fold_stage, load_stage, measure_stage
from deployfold.building.state import Inputs, Run
from deployfold.config.spec import BuildSpec
from deployfold.errors import AccuracyError, DeployfoldError, ThresholdError
from deployfold.events import Emit, ignore
from deployfold.reporting.model import Report, Status
from deployfold.util.files import make_directory
from deployfold.util.locks import claimed


def build(spec: BuildSpec, *, emit: Emit = ignore) -> tuple[Report, Path]:
    """Fold, export, lower, compile, measure and compare a model.

    Every artifact and ``report.json`` and ``report.md`` go to ``spec.output``, or to
    ``build/<model>``. They are written whole or not at all; once the model is loaded, the report is
    written also when a stage fails or the build is interrupted, and says where it stopped.

    Returns:
        The report and the directory. :func:`check_outcome` says whether it is all that was asked.

    Raises:
        LoadError, FoldError, ExportError, CompileError, MeasureError: the stage failed.
        UsageError: the directory cannot be written, or another build is at work in it.
        KeyboardInterrupt: as it came, after the report was written.
    """
    run = Run(spec, emit, spec.output or Path("build"))
    inputs = load_stage(run, single=True)
    make_directory(run.directory)
    with claimed(run.directory):
        # A build that is killed must not leave an earlier one's report beside its own files.
        remove_report(run.directory)
        return _build(run, inputs), run.directory


def _build(run: Run, inputs: Inputs) -> Report:
    spec = run.spec
    try:
        fold_stage(run, inputs, run.directory / f"{run.name}.folded.pt")
        device_stage(run, inputs)
        onnx = export_stage(run, inputs)
        if not spec.measure:
            run.forget_modules()
        lowered = lower_stage(run, onnx)
        if spec.engine:
            compile_stage(run, lowered)
            kit_stage(run, lowered)
        if spec.measure:
            measure_stage(run, inputs)
        return run.save(
            Status(state="failed", stage="lower", message=run.refusal) if run.refusal else Status()
        )
    except DeployfoldError as error:
        with suppress(DeployfoldError):  # what went wrong first is what the user must hear
            run.save(Status(state="failed", stage=run.stage, message=error.message))
        raise
    except Exception as error:
        with suppress(Exception):
            run.save(Status(state="failed", stage=run.stage, message=f"internal error: {error}"))
        raise
    except KeyboardInterrupt:
        run.save(Status(state="interrupted", stage=run.stage))
        raise


def fold_file(spec: BuildSpec, output: Path | None, *, emit: Emit = ignore) -> Report:
    """Load and fold alone; write the folded module to ``output`` if that is given.

    Raises:
        LoadError, FoldError: the stage failed; nothing is written then.
    """
    run = Run(spec, emit, Path())
    fold_stage(run, load_stage(run, single=False), output)
    assert run.loaded is not None
    assert run.inputs is not None
    rows = unmeasured_rows(run.artifacts, "deployfold fold measures nothing")
    return make_report(
        spec,
        run.loaded,
        run.inputs,
        run.folded,
        rows,
        run.notes,
        Status(),
        input_data=run.input_data,
    )


def check_outcome(report: Report) -> None:
    """Raise for what a build that ran to its end could not keep.

    Raises:
        AccuracyError: INT8, FP8 or INT4 was refused; all else was built.
        ThresholdError: naming every missed limit.
    """
    if report.status.state == "failed":
        raise AccuracyError(
            report.status.message or "INT8 was refused.",
            hint="All else was built. Calibrate on data like that of the deployment, allow less "
            "with --min-sqnr or --min-agreement, or let fewer layers be quantised with "
            "--min-int8-share.",
        )
    _check_thresholds(report)


def _check_thresholds(report: Report) -> None:
    missed = [result for result in report.thresholds if not result.passed]
    if missed:
        sentences = [
            f"{item.name} {item.limit:g} is missed: "
            + ("it was not measured" if item.value is None else f"{item.value:g}")
            + (f" ({item.row})" if item.row else "")
            for item in missed
        ]
        names = {row.name for row in report.rows}
        unknown = any(item.row is not None and item.row not in names for item in missed)
        raise ThresholdError(
            "; ".join(sentences) + ".",
            hint=f"The rows are {', '.join(sorted(names))}." if unknown else None,
        )
