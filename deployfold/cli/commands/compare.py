"""List the figures that moved beyond noise between two reports; exit code 7 on a regression.

With --layers: find the first layer whose outputs differ.

Examples:
  deployfold compare main/build/resnet50 build/resnet50
  deployfold compare old.json new.json --fail latency=5% --fail size=never
  deployfold compare resnet50.pt build/resnet50/resnet50.int8.onnx --layers
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployfold.cli import options as opt
from deployfold.cli.in_session import in_session
from deployfold.cli.session import Session
from deployfold.config.option_field import Panel
from deployfold.config.precision import Precision
from deployfold.reporting.metrics import METRICS

if TYPE_CHECKING:
    from deployfold.config.task_metrics import MetricLimit
    from deployfold.config.thresholds import Thresholds

LAYERS = "Layer by layer"
_NAMED = 3
"""Most regressions of the table that the error message repeats."""


def _default_limits() -> str:
    """The tolerances without ``--fail``: ``latency=10%, size=1%``."""
    limits = [f"{one.key}={one.default_limit}" for one in METRICS.values() if one.default_limit]
    return ", ".join([*limits, "rows=0"])


def _layer_limits() -> str:
    """The default limits of a layer by precision: ``60 in fp32, 20 in fp16``."""
    return ", ".join(f"{one.record.layer_sqnr_db:g} in {one.value}" for one in Precision)


@in_session("json", "verbose")
def compare(
    run: Session,
    old: Annotated[
        Path,
        typer.Argument(
            metavar="OLD", help="A report.json, or the directory of a build.", show_default=False
        ),
    ],
    new: Annotated[
        Path,
        typer.Argument(metavar="NEW", help="The one to compare with OLD.", show_default=False),
    ],
    fail: Annotated[
        list[str] | None,
        opt.option(
            "How much worse a metric may get: latency=5%, sqnr=3dB, size=1MB, accuracy=0.5pt "
            f"(percentage points), size=never. Metrics: {', '.join(METRICS)}, metric.NAME "
            "of a task metric; rows fails if a row is no longer measured. By default: "
            f"{_default_limits()}. Repeat it for several.",
            panel=Panel.LIMITS,
            metavar="[ROW:]METRIC=LIMIT",
        ),
    ] = None,
    min_speedup: Annotated[
        float | None,
        opt.flag(
            "min-speedup", help="Fail unless some row of NEW is X times as fast as its original."
        ),
    ] = None,
    max_diff: Annotated[
        float | None,
        opt.flag(
            "max-diff",
            help="Fail if a row of NEW differs from its original by more, or was not measured; "
            "with --layers, a layer.",
        ),
    ] = None,
    max_latency_ms: Annotated[
        list[str] | None,
        opt.flag(
            "max-latency-ms",
            help="Fail if the row's median in NEW is higher; repeat it for several.",
        ),
    ] = None,
    max_diff_of: Annotated[
        list[str] | None,
        opt.flag("max-diff-of", help="Fail if this row of NEW differs by more; repeatable."),
    ] = None,
    min_speedup_of: Annotated[
        list[str] | None,
        opt.flag(
            "min-speedup-of", help="Fail unless this row of NEW is X times as fast; repeatable."
        ),
    ] = None,
    min_metric: Annotated[
        list[str] | None,
        opt.flag(
            "min-metric",
            help="Fail if a row of NEW has less of a task metric; -1% is of its original's; "
            "repeatable.",
        ),
    ] = None,
    strict: Annotated[
        bool,
        opt.option(
            "Also fail if a figure with a limit cannot be judged: too few rounds, another "
            "machine, other inputs.",
            "--strict",
            panel=Panel.LIMITS,
        ),
    ] = False,
    layers: Annotated[
        bool,
        opt.option(
            "Compare two forms of one model layer by layer, and name the first layer that "
            "departs. OLD and NEW are checkpoints, models by name, folded .pt files, or .onnx "
            "files of any precision.",
            "--layers",
            panel=LAYERS,
        ),
    ] = False,
    min_sqnr: Annotated[
        float | None,
        opt.option(
            f"A layer below this SQNR departs; by default {_layer_limits()}. --max-diff is a "
            "limit on every layer too.",
            panel=LAYERS,
            metavar="DB",
        ),
    ] = None,
    arch: opt.Arch = None,
    input: opt.Inputs = None,
    inputs: Annotated[
        Path | None,
        opt.option(
            "Real inputs, .npy or .npz with one array per input; seeded random by default.",
            "--input-data",
            "--inputs",
            panel=LAYERS,
            metavar="FILE",
        ),
    ] = None,
    seed: Annotated[
        int | None, opt.option("Seed of the random inputs; 0.", panel=LAYERS, metavar="N", min=0)
    ] = None,
    allow_global: opt.AllowGlobals = None,
    trust: opt.Trust = False,
    markdown: Annotated[
        Path | None, opt.option("Also write Markdown, for a pull request.", metavar="FILE")
    ] = None,
    junit: Annotated[
        Path | None, opt.option("Also write JUnit XML, for CI.", metavar="FILE")
    ] = None,
) -> None:
    """The command ``deployfold compare``."""
    for_reports: dict[str, object] = {
        "--fail": fail, "--min-speedup": min_speedup, "--max-latency-ms": max_latency_ms,
        "--max-diff-of": max_diff_of, "--min-speedup-of": min_speedup_of, "--junit": junit,
        "--min-metric": min_metric, "--strict": strict or None,
    }  # fmt: skip
    for_layers: dict[str, object] = {
        "--min-sqnr": min_sqnr, "--arch": arch, "--input": input, "--input-data": inputs,
        "--seed": seed, "--allow-global": allow_global, "--trust": trust or None,
    }  # fmt: skip
    _check_given(for_reports if layers else for_layers, layers)
    if layers:
        from deployfold.config.inputs import InputSpec

        _compare_layers(
            run,
            str(old),
            str(new),
            markdown,
            arch=arch,
            inputs=InputSpec.parse(input) if input else None,
            data=inputs,
            seed=seed or 0,
            min_sqnr=min_sqnr,
            max_diff=max_diff,
            allow_globals=tuple(allow_global or ()),
            trust=trust,
        )
        return
    from deployfold.config.task_metrics import parse_metric_limits
    from deployfold.config.thresholds import Thresholds, parse_row_limits

    limits = Thresholds(
        min_speedup=min_speedup,
        max_diff=max_diff,
        max_latency_ms=parse_row_limits(max_latency_ms or ()),
        max_diff_of=parse_row_limits(max_diff_of or ()),
        min_speedup_of=parse_row_limits(min_speedup_of or ()),
    )
    _compare_reports(
        run, old, new, limits, parse_metric_limits(min_metric or ()), fail or (),
        markdown=markdown, junit=junit, strict=strict,
    )  # fmt: skip


def _compare_reports(
    run: Session,
    old: Path,
    new: Path,
    limits: Thresholds,
    metrics: Sequence[MetricLimit],
    fail: Sequence[str],
    *,
    markdown: Path | None,
    junit: Path | None,
    strict: bool,
) -> None:
    """Compare two reports, and check the limits that the new one must keep.

    Raises:
        ThresholdError: a figure regressed, or a limit is missed.
    """
    from deployfold.compare.judge import compare_reports
    from deployfold.compare.render import (
        changes_junit,
        changes_markdown,
        changes_renderable,
        regression_sentences,
    )
    from deployfold.compare.tolerances import parse_tolerances
    from deployfold.errors import ThresholdError
    from deployfold.reporting.report import load_report
    from deployfold.reporting.thresholds import check
    from deployfold.util.files import write_text

    tolerances = parse_tolerances(fail)
    before, after = load_report(old), load_report(new)
    checked = check(after.rows, limits, metrics)
    changes = compare_reports(before, after, tolerances, limits=checked, strict=strict)
    if markdown is not None:
        write_text(markdown, changes_markdown(changes))
    if junit is not None:
        write_text(junit, changes_junit(changes))
    if run.json:
        run.out.file.write(changes.to_json())
    else:
        run.out.print(changes_renderable(changes, everything=run.verbose))
    if not changes.passed:
        raise ThresholdError(_in_short(regression_sentences(changes)))


def _check_given(others: dict[str, object], layers: bool) -> None:
    """Refuse options that would be ignored."""
    from deployfold.errors import UsageError

    given = next((name for name, value in others.items() if value is not None), None)
    if given is not None and layers:
        raise UsageError(f"{given} is for two reports, but --layers compares two models.")
    if given is not None:
        raise UsageError(f"{given} is for the comparison of layers.", hint="Add --layers.")


def _in_short(sentences: Sequence[str]) -> str:
    """The first few sentences; the table has all of them."""
    more = len(sentences) - _NAMED
    return "; ".join(sentences[:_NAMED]) + (f"; and {more} more." if more > 0 else ".")


def _compare_layers(
    run: Session, old: str, new: str, markdown: Path | None, **options: Any
) -> None:
    from deployfold.compare.layers import compare_files
    from deployfold.compare.layers.render import layers_markdown, layers_renderable, verdict
    from deployfold.errors import ThresholdError
    from deployfold.util.files import write_text

    found = compare_files(old, new, emit=run.emit, **options)
    if markdown is not None:
        write_text(markdown, layers_markdown(found))
    if run.json:
        run.out.file.write(found.to_json())
    else:
        run.out.print()
        run.out.print(layers_renderable(found))
    if not found.passed:
        raise ThresholdError(verdict(found))
