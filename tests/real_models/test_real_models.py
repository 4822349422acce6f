"""Every model of the list: built by the installed command, or refused as its users would accept.

Slow, and resumable: ``make test-real`` gathers the results in ``build/real`` and then judges them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from case import Case
from listed import CASES
from real_run import result_path

RESULTS = Path("build/real")

pytestmark = [pytest.mark.slow, pytest.mark.real]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_model(case: Case) -> None:
    path = result_path(RESULTS, case.name)
    assert path.exists(), "no result: make test-real gathers them first"
    result = json.loads(path.read_text())
    if "missing" in result:
        pytest.skip(f"cannot be installed here: {result['missing']}")
    assert "failed" not in result, result["failed"]
    output = result["output"]
    assert result["exit"] == case.exit_code, output[-2000:]
    assert "Traceback" not in output
    assert "Internal error" not in output
    assert case.message in " ".join(output.split())
    if case.exit_code:
        return
    report = result["report"]
    fold = report["fold"]
    assert all(one["reason"] for one in fold["left"])
    assert fold["verification"]["float64_relative_difference"] <= 1e-9
    rows = {row["name"]: row for row in report["rows"]}
    for name in ("onnxruntime", "onnxruntime-fp16", "tensorrt-fp16"):
        assert rows[name]["artifact"], rows[name]["not_measured"]
    for row in report["rows"]:
        assert row["artifact"] or row["not_measured"] or row["name"] in ("pytorch", "original")
