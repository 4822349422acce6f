"""report.json: what is written is read back, and what is not a report is refused clearly."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from report_sample import full_report, sample_report

from deployfold.errors import UsageError
from deployfold.reporting.report import Report, load_report, now, write_report
from deployfold.reporting.row import Accuracy, Row

numbers = st.floats(allow_nan=False, allow_infinity=True)
names = st.text(st.characters(exclude_categories=["Cs"]))


def test_a_report_round_trips_through_its_file(tmp_path: Path) -> None:
    report = sample_report()
    path = tmp_path / "report.json"
    write_report(report, path)
    assert load_report(path) == report


@given(names, names, numbers, numbers, st.none() | st.integers(0, 2**63))
def test_any_row_round_trips(
    title: str, reason: str, diff: float, sqnr: float, count: int | None
) -> None:
    row = Row(
        name="x",
        title=title,
        parameters=count,
        accuracy=Accuracy(max_abs_diff=diff, sqnr_db=sqnr),
        not_measured=reason,
    )
    report = sample_report().model_copy(update={"rows": (row,)})
    text = report.to_json()
    assert Report.model_validate_json(text) == report
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_nan_and_infinity_are_strings_in_json() -> None:
    accuracy = Accuracy(max_abs_diff=math.inf, sqnr_db=-math.inf, cosine=math.nan)
    data = json.loads(accuracy.model_dump_json())
    assert (data["max_abs_diff"], data["sqnr_db"], data["cosine"]) == (
        "Infinity",
        "-Infinity",
        "NaN",
    )
    back = Accuracy.model_validate_json(accuracy.model_dump_json())
    assert (back.max_abs_diff, back.sqnr_db) == (math.inf, -math.inf)
    assert math.isnan(back.cosine or 0)


def test_reports_are_frozen() -> None:
    with pytest.raises(ValidationError):
        sample_report().created = "later"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "no schema_version"),
        (b"{}", "no schema_version"),
        (b'{"schema_version": "3"}', "schema '3'; this deployfold reads '2'"),
        (b'{"schema_version": "2"}', "deployfold_version: Field required"),
        (b'{"schema_version": "1"}', "deployfold_version: Field required"),
        (b'{"schema_version": "1", "rows": [1, {"int8": {}}]}', "Field required"),
        (b'{"schema_version": [1]}', "schema [1]; this deployfold reads '2'"),
    ],
)
def test_a_file_that_is_not_a_report_is_a_usage_error(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_report(path)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda rows: rows[1].update(name=rows[0]["name"]), "2 rows have the name 'pytorch'"),
        (lambda rows: rows[0]["latency"].update(median_ms=0.0), "'pytorch' has a median of 0 ms"),
    ],
    ids=["two rows of one name", "no time"],
)
def test_a_report_that_no_build_writes_is_a_usage_error(tmp_path: Path, change, problem) -> None:
    data = json.loads(sample_report().to_json())
    change(data["rows"])
    (tmp_path / "report.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match=problem):
        load_report(tmp_path)


def test_a_missing_report_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load_report(tmp_path / "none.json")


def test_unknown_fields_of_the_same_schema_are_read_over(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    data = json.loads(sample_report().to_json()) | {"added_later": [1]}
    path.write_text(json.dumps(data))
    assert load_report(path) == sample_report()


def test_the_time_is_utc_and_source_date_epoch_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert now() == "2023-11-14T22:13:20Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "9" * 30)
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
        now()
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert now().endswith("Z")
    assert now()[:2] == "20"


OLD = Path(__file__).parent / "golden" / "old" / "report-0.1.0.json"


@pytest.mark.parametrize(
    "report", [sample_report().to_json(), full_report().to_json(), load_report(OLD).to_json()]
)
def test_reports_keep_the_json_schema(report: str) -> None:
    schema = Report.model_json_schema()
    validator = Draft202012Validator(schema)
    validator.check_schema(schema)
    data = json.loads(report)
    assert [error.message for error in validator.iter_errors(data)] == []
    for key in ("created", "environment"):
        assert not validator.is_valid({name: data[name] for name in data if name != key})
    data["rows"][0]["bytes"] = "many"
    assert not validator.is_valid(data)


def test_the_report_imports_nothing_heavy() -> None:
    code = (
        "import sys, deployfold.reporting.terminal, deployfold.reporting.markdown,"
        " deployfold.reporting.thresholds\n"
        "print([n for n in ('torch', 'onnx', 'onnxruntime', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_lone_surrogates_are_written_as_question_marks(tmp_path: Path) -> None:
    report = sample_report()
    named = report.rows[0].model_copy(update={"title": "a \ud800 name"})
    report = report.model_copy(update={"rows": (named, *report.rows[1:])})
    write_report(report, tmp_path / "report.json")
    read = load_report(tmp_path / "report.json")
    assert read.rows[0].title == "a ? name"
    assert read.rows[1:] == report.rows[1:]
