"""The report of a build: what ``report.json`` holds, and nothing heavy to import.

JSON has no infinity and no NaN. Both are written as the strings ``"Infinity"``, ``"-Infinity"`` and
``"NaN"`` wherever a number stands (an identical output has an infinite SQNR), and read back from
them; ``null`` always means that a value is missing.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from deployfold.errors import UsageError
from deployfold.util.files import write_text
from deployfold.util.versioned_json import parse_versioned

from .conditions import Environment, ModelInput, Source, StageCost
from .fields import Frozen, Number, first_problem
from .fold import FoldSummary
from .row import Row

SCHEMA_VERSION: Final = "2"
_OLDER_VERSIONS = ("1",)
REPORT_JSON, REPORT_MARKDOWN, REPORT_HTML = "report.json", "report.md", "report.html"


class ThresholdResult(Frozen):
    """A limit that the user set. ``value`` is ``None`` where nothing was measured."""

    name: str
    limit: Number
    value: Number | None
    row: str | None
    passed: bool

    @property
    def missed(self) -> str:
        """A clause for a limit that was missed: ``max-diff 0.001 is missed: 0.02 (folded)``."""
        value = "it was not measured" if self.value is None else f"{self.value:.4g}"
        row = f" ({self.row})" if self.row else ""
        return f"{self.name} {self.limit:.4g} is missed: {value}{row}"


class Status(Frozen):
    """How the build ended, with the stage and the reason where it did not complete."""

    state: Literal["complete", "interrupted", "failed"] = "complete"
    stage: str | None = None
    message: str | None = None

    def __str__(self) -> str:
        where = f" at {self.stage}" if self.stage else ""
        why = f": {self.message}" if self.message else ""
        return f"{self.state}{where}{why}"


class Chosen(Frozen):
    """The artifact that ``--choose`` names.

    Attributes:
        by: ``latency``, ``throughput`` or ``size``.
        row, file: of the best one; ``None`` where no file can be chosen.
        runner_up: the row of the next best.
        sentence: the same for people.
    """

    by: str
    row: str | None = None
    file: str | None = None
    runner_up: str | None = None
    sentence: str


class Report(Frozen):
    """The report of a build. The first row is the baseline.

    ``input_origin`` names the source of the shapes, and ``input_data`` the values that were run.
    ``options`` are the options that the build was given, by their keys in a build profile; ``None``
    in a report that no build made, and in older ones.
    """

    schema_version: Literal["2"] = SCHEMA_VERSION
    deployfold_version: str
    created: str
    source: Source
    inputs: tuple[ModelInput, ...]
    input_origin: str | None = None
    input_data: str = "seeded random"
    fold: FoldSummary | None = None
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    environment: Environment
    thresholds: tuple[ThresholdResult, ...] = ()
    stages: tuple[StageCost, ...] = ()
    status: Status = Status()
    options: dict[str, Any] | None = None
    chosen: Chosen | None = None

    def to_json(self) -> str:
        """The JSON text of the report, indented, with a final newline.

        Characters that UTF-8 cannot hold (a lone surrogate, from a checkpoint's names or a path in
        another encoding) are written as ``?``.
        """
        try:
            return super().to_json()
        except PydanticSerializationError:
            return Report.model_validate(_as_utf8(self.model_dump())).to_json()

    def _repr_html_(self) -> str | None:
        """The page of ``report.html`` in a frame, for notebooks; ``None`` without jinja2."""
        from .html import is_installed, render_frame

        return render_frame(self) if is_installed() else None


def _as_utf8(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_as_utf8(key): _as_utf8(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_as_utf8, value))
    return value


def now() -> str:
    """The time as ISO 8601 in UTC, to the second; ``SOURCE_DATE_EPOCH`` takes its place if set."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.now(timezone.utc)
    if epoch.isascii() and epoch.isdigit():
        try:
            moment = datetime.fromtimestamp(int(epoch), timezone.utc)
        except (OverflowError, ValueError, OSError) as error:
            raise UsageError(
                f"SOURCE_DATE_EPOCH={epoch} is not a date.", hint="Set it to seconds since 1970."
            ) from error
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def write_report(report: Report, path: Path) -> None:
    """Write ``report.json`` atomically."""
    write_text(path, report.to_json())


def load_report(path: Path) -> Report:
    """Read a ``report.json``.

    Args:
        path: the file, or the directory of the build that it lies in.

    Raises:
        UsageError: the file cannot be read, is not a report, or has a newer schema.
    """
    path = path / REPORT_JSON if path.is_dir() else path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"Cannot read {path}: {error.strerror}.",
            hint="Give the directory of a build, or its report.json.",
        ) from error
    data = parse_versioned(content, str(path), "report", (SCHEMA_VERSION, *_OLDER_VERSIONS))
    try:
        if data["schema_version"] != SCHEMA_VERSION:
            content = json.dumps(_upgraded(data)).encode()
        report = Report.model_validate_json(content)
    except ValidationError as error:
        raise UsageError(
            f"{path} is not a valid deployfold report: {first_problem(error)}."
        ) from error
    if (problem := _contradiction(report)) is not None:
        raise UsageError(f"{path} is not a valid deployfold report: {problem}.")
    return report


def _contradiction(report: Report) -> str | None:
    """A contradiction that would make a comparison wrong; ``None`` without one."""
    names = [row.name for row in report.rows]
    for row in report.rows:
        if names.count(row.name) > 1:
            return f"{names.count(row.name)} rows have the name {row.name!r}"
        if row.latency is not None and not row.latency.median_ms > 0:
            return f"row {row.name!r} has a median of {row.latency.median_ms:g} ms"
    return None


def _upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """The JSON of an older report in the current schema.

    Version 1 called the summary of every quantised row ``int8``, whatever its precision.
    """
    rows = data.get("rows", [])
    upgraded = [_with_quantization(row) for row in rows] if isinstance(rows, list) else rows
    return {**data, "schema_version": SCHEMA_VERSION, "rows": upgraded}


def _with_quantization(row: Any) -> Any:
    summary = row.get("int8") if isinstance(row, dict) else None
    if not isinstance(summary, dict):
        return row
    share = {"quantized_macs_share": summary.get("int8_macs_share")}
    return {**row, "quantization": {**summary, **share}}
