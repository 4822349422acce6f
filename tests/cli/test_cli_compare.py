"""``deployfold compare``, and the options of ``deployfold bench`` that shape its report."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from cli_runs import fails, run

BENCH = ("--threads", "1", "--max-seconds", "0.5")


@pytest.fixture(scope="module")
def pair(folder, built, tmp_path_factory):
    """The build's report, and one that is deliberately worse."""
    place = tmp_path_factory.mktemp("compare")
    report = json.loads((folder / "out" / "report.json").read_text())
    (place / "old").mkdir()
    (place / "old" / "report.json").write_text(json.dumps(report))
    for row in report["rows"]:
        if row["name"] == "onnxruntime":
            row["bytes"] *= 2
        if row["name"] == "folded":
            row["latency"], row["not_measured"] = None, "it \x1b[2J failed"
    (place / "new.json").write_text(json.dumps(report))
    return place


def test_nothing_moved(pair):
    done = run("compare", "old", "old/report.json", cwd=pair)
    assert done.returncode == 0, done.stderr
    assert "No regression" in done.stdout


def test_a_regression_has_exit_code_7_and_is_named(pair):
    done = run("compare", "old", "new.json", "--markdown", "m.md", "--junit", "j.xml", cwd=pair)
    fails(done, 7, "onnxruntime size went from", "limit 1 %", "folded rows: no longer measured")
    assert "2 regressions" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert "2 regressions" in (pair / "m.md").read_text()
    suite = ElementTree.parse(pair / "j.xml").getroot()[0]
    assert suite.get("failures") == "2"


def test_of_many_regressions_the_error_repeats_a_few(pair):
    report = json.loads((pair / "old" / "report.json").read_text())
    sized = [row for row in report["rows"] if row["bytes"]]
    for row in sized:
        row["bytes"] *= 3
    (pair / "worse.json").write_text(json.dumps(report))
    done = run("compare", "old", "worse.json", cwd=pair)
    fails(done, 7, "size went from", f"; and {len(sized) - 3} more.")
    assert done.stderr.count("went from") == 3
    assert f"{len(sized)} regressions" in done.stdout


def test_goals_can_be_loosened_and_tightened(pair):
    loose = ("--fail", "onnxruntime:bytes=150%", "--fail", "rows=never")
    assert run("compare", "old", "new.json", *loose, cwd=pair).returncode == 0
    done = run("compare", "old", "old", "--max-latency-ms", "pytorch=0.0001", cwd=pair)
    fails(done, 7, "max-latency-ms 0.0001 is missed")
    done = run("compare", "old", "old", "--min-speedup", "1e9", "--json", cwd=pair)
    fails(done, 7, "min-speedup")


def test_json_is_alone_on_stdout(pair):
    done = run("compare", "old", "new.json", "--json", cwd=pair)
    assert done.returncode == 7
    changes = json.loads(done.stdout)["changes"]
    worse = {(one["row"], one["metric"]) for one in changes if one["verdict"] == "regression"}
    assert worse == {("onnxruntime", "size"), ("folded", "rows")}


def test_reports_that_cannot_be_compared_are_a_usage_error(pair, tmp_path):
    fails(
        run("compare", "old", "old", "--fail", "speed=5%", cwd=pair),
        2,
        "is not a tolerance",
        "latency",
    )
    fails(run("compare", "old", str(tmp_path), cwd=pair), 2, "No such file")
    (tmp_path / "x.json").write_text("{}")
    fails(run("compare", "old", str(tmp_path / "x.json"), cwd=pair), 2, "no schema_version")


def test_bench_sorts_and_chooses(folder, built):
    done = run(
        "bench", "out", "--json", "--only", "onnxruntime", "--only", "folded", "--sort", "median",
        "--batch", "2,1", *BENCH, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert rows[0]["name"] == "pytorch"
    assert {row["name"] for row in rows[1:]} == {"onnxruntime", "folded"}
    first, second = (row["latency"]["median_ms"] for row in rows[1:])
    assert first <= second
    assert [point["batch"] for point in rows[0]["sweep"]] == [1, 2]


def test_bench_refuses_wrong_choices_before_it_measures(folder, built):
    fails(run("bench", "out", "--sort", "speed", *BENCH, cwd=folder), 2, "no column 'speed'")
    fails(run("bench", "out", "--only", "x", *BENCH, cwd=folder), 2, "no row 'x'", "onnxruntime")
    fails(
        run("bench", "out", "--batch", "0", *BENCH, cwd=folder),
        2,
        "expected different positive integers",
    )
    fails(run("bench", "out", "--labels", "y.txt", *BENCH, cwd=folder), 2, "--inputs")
