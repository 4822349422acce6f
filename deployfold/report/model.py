"""The report of a build: what ``report.json`` holds, and nothing heavy to import.

JSON has no infinity and no NaN. They are written as the strings ``"Infinity"``, ``"-Infinity"`` and
``"NaN"`` wherever a number stands (an identical output has an infinite SQNR), and read back from
them; ``null`` always means that there is no value.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from deployfold.errors import UsageError
from deployfold.files import write_text

SCHEMA_VERSION: Final = "1"

Number = Annotated[
    float,
    WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": ["Infinity", "-Infinity", "NaN"]}]}),
]
Count = Annotated[int, Field(ge=0)]


class _Frozen(BaseModel):
    # Unknown keys are ignored, so that a field added within a schema version breaks no reader.
    model_config = ConfigDict(
        frozen=True, extra="ignore", from_attributes=True, ser_json_inf_nan="strings"
    )


class Source(_Frozen):
    """The model that came in. ``sha256`` and ``bytes`` are of the file; ``None`` without one."""

    path: str
    kind: str
    sha256: str | None = None
    arch: str | None = None
    bytes: Count | None = None


class ModelInput(_Frozen):
    """One model input; the batch axis comes first in ``shape``."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class FoldedNorm(_Frozen):
    """A BatchNorm that is gone: folded ``into`` that module by that rule."""

    name: str
    rule: str
    into: str


class LeftNorm(_Frozen):
    """A BatchNorm that stayed, and why."""

    name: str
    reason: str


class Verification(_Frozen):
    """Folded against original, on that many inputs; ``None``: float64 could not run, see note."""

    float64_relative_difference: Number | None
    native_max_abs_diff: Number
    inputs: Count
    note: str | None = None


class FoldSummary(_Frozen):
    """What folding did. ``verification`` is ``None`` if nothing was folded."""

    batchnorm_before: Count
    parameters_before: Count
    parameters_after: Count
    folded: tuple[FoldedNorm, ...] = ()
    left: tuple[LeftNorm, ...] = ()
    verification: Verification | None = None


class Speedup(_Frozen):
    """Baseline time / own time, with the bounds of its 95 % interval."""

    value: Number
    low: Number
    high: Number

    @property
    def undecided(self) -> bool:
        """The interval holds 1: neither faster nor slower."""
        return self.low <= 1.0 <= self.high


class MeasuredLatency(Protocol):
    """What :meth:`Latency.of` reads: ``deployfold.measure.results.Latency`` has it."""

    @property
    def samples_ms(self) -> Any: ...
    @property
    def median_ms(self) -> float: ...
    @property
    def speedup(self) -> float | None: ...
    @property
    def speedup_low(self) -> float | None: ...
    @property
    def speedup_high(self) -> float | None: ...


class Latency(_Frozen):
    """Latency of one call in milliseconds, and throughput in samples per second at the median.

    ``samples`` is how many timed calls the percentiles come from, ``note`` why they are not
    stable, ``h2d_ms`` and ``d2h_ms`` the copies to and from a GPU, which the latency leaves out.
    """

    median_ms: Number
    p90_ms: Number
    p95_ms: Number
    p99_ms: Number
    throughput: Number
    speedup: Speedup | None
    rounds: Count
    samples: Count
    stable: bool
    note: str | None = None
    h2d_ms: Number | None = None
    d2h_ms: Number | None = None

    @classmethod
    def of(cls, measured: MeasuredLatency) -> Latency:
        """The report's form of ``deployfold.measure.results.Latency``."""
        value, low, high = measured.speedup, measured.speedup_low, measured.speedup_high
        speedup = None
        if value is not None and low is not None and high is not None:
            speedup = Speedup(value=value, low=low, high=high)
        plain = {
            name: getattr(measured, name)
            for name in cls.model_fields
            if name not in ("speedup", "samples")
        }
        return cls(speedup=speedup, samples=len(measured.samples_ms), **plain)


class Accuracy(_Frozen):
    """Outputs against the original's on the same inputs; of several outputs, the worst."""

    max_abs_diff: Number
    sqnr_db: Number
    cosine: Number | None = None
    top1_agreement: Number | None = None
    nonfinite: Count = 0


class Row(_Frozen):
    """One artifact in one runtime.

    Attributes:
        name: stable and machine-readable, such as ``onnxruntime-fp16``; thresholds use it.
        title: what people read.
        artifact: its file, relative to the report; ``None`` for a model in memory.
        parameters, batchnorm_layers, bytes: ``None`` where they cannot be told.
        latency: ``None`` where it was not measured, and then ``not_measured`` says why.
        accuracy: ``None`` for the baseline and for what could not run.
    """

    name: str
    title: str
    artifact: str | None = None
    parameters: Count | None = None
    batchnorm_layers: Count | None = None
    bytes: Count | None = None
    latency: Latency | None = None
    accuracy: Accuracy | None = None
    not_measured: str | None = None
    notes: tuple[str, ...] = ()


class Environment(_Frozen):
    """The machine; the same fields as ``deployfold.measure.environment.Environment``."""

    cpu: str
    physical_cores: Count
    threads: Count
    os: str
    python: str
    gpu: str | None = None
    packages: dict[str, str] = Field(default_factory=dict)


class ThresholdResult(_Frozen):
    """A limit the user set. ``value`` is ``None`` if there was nothing to hold against it."""

    name: str
    limit: Number
    value: Number | None
    row: str | None
    passed: bool


class Status(_Frozen):
    """How the build ended; ``stage`` and ``message`` where it did not complete."""

    state: Literal["complete", "interrupted", "failed"] = "complete"
    stage: str | None = None
    message: str | None = None


class Report(_Frozen):
    """Everything a build found. The first row is the baseline.

    ``input_origin`` says where the shapes came from, and ``input_data`` what values were run.
    """

    schema_version: Literal["1"] = SCHEMA_VERSION
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
    status: Status = Status()

    @property
    def baseline(self) -> Row | None:
        """The row that all others are compared with."""
        return self.rows[0] if self.rows else None

    def to_json(self) -> str:
        """The JSON text of the report, indented, with a final newline."""
        return self.model_dump_json(indent=2) + "\n"


def now() -> str:
    """The time as ISO 8601 in UTC, to the second; ``SOURCE_DATE_EPOCH`` takes its place if set."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.now(timezone.utc)
    if epoch.isascii() and epoch.isdigit():
        try:
            moment = datetime.fromtimestamp(int(epoch), timezone.utc)
        except (OverflowError, ValueError, OSError) as error:
            raise UsageError(
                f"SOURCE_DATE_EPOCH={epoch} is no date.", hint="Set it to seconds since 1970."
            ) from error
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def write_report(report: Report, path: Path) -> None:
    """Write ``report.json`` atomically."""
    write_text(path, report.to_json())


def load_report(path: Path) -> Report:
    """Read a ``report.json``.

    Raises:
        UsageError: it cannot be read, is no report, or has a schema this version does not know.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.") from error
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a deployfold report: it is not JSON.") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version is None:
        raise UsageError(
            f"{path} is not a deployfold report: it has no schema_version.",
            hint="deployfold build writes one as report.json.",
        )
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has the report schema {version!r}; this deployfold reads {SCHEMA_VERSION!r}.",
            hint="Update deployfold: pip install -U deployfold.",
        )
    try:
        return Report.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the top level"
        raise UsageError(
            f"{path} is not a valid deployfold report: {where}: {first['msg']}."
        ) from error
