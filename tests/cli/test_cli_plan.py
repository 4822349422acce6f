"""The output of a build before and after its work: ``--dry-run``, ``--quiet``, ``next:``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from cli_runs import QUICK, SHAPE, fails, run
from report_sample import sample_report

from deployfold.cli.render import closing_lines
from deployfold.reporting.recommendation import recommend
from deployfold.reporting.report import load_report

TARGETS = ("--fp16", "--target", "l4", "--target", "h100", "--target", "jetson-orin-nano")


def test_a_dry_run_names_the_files_of_the_build(folder, built):
    done = run("build", "net.pt", *TARGETS, "-o", "planned", "--dry-run", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    rows = load_report(folder / "out" / "report.json").rows
    assert [row["name"] for row in plan["rows"]] == [row.name for row in rows]
    assert [row["file"] for row in plan["rows"]] == [row.artifact for row in rows]
    missing = {row["name"]: row["missing"] for row in plan["rows"]}
    assert "No engine for sm_90" in missing["tensorrt-fp16-h100"]
    assert plan["directory"] == "planned"
    assert not (folder / "planned").exists()


def test_a_dry_run_names_the_compiler_and_the_gpus(folder):
    before = set(folder.rglob("*"))
    done = run("build", "net.pt", *TARGETS, "--dry-run", cwd=folder, COLUMNS="160")
    assert done.returncode == 0, done.stderr
    assert "TensorRT-RTX for sm_89" in done.stdout
    assert "net.fp16.sm_89.engine" in done.stdout
    assert "Nothing was made." in done.stdout
    assert set(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("nothing.pt",), ("would stop", "nothing.pt does not exist")),
        (("net.pt", "--int8", "--calib", "nowhere"), ("would stop", "nowhere does not exist")),
    ],
)
def test_a_dry_run_lists_missing_packages_and_files(folder, words, expected):
    fails(run("build", *words, "--dry-run", cwd=folder), 2, *expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--only", "onnxruntim"), ("'onnxruntim'", "Did you mean onnxruntime?")),
        (("--fp16", "--calib", "random"), ("--calib has no effect", "Add --int8")),
        (("--layers",), ("--layers has no effect", "Add --int8")),
        (("--no-engine", "--target", "l4"), ("--target has no effect", "--no-engine")),
        (("--quiet", "--verbose"), ("exclude each other",)),
    ],
)
def test_mistakes_are_errors_before_any_work(folder, words, expected):
    done = run("build", "net.pt", "--input", SHAPE, "-o", "mistaken", *words, cwd=folder)
    fails(done, 2, *expected)
    assert "✓" not in done.stderr
    assert not (folder / "mistaken").exists()


def test_the_end_of_a_build_says_what_to_take_and_the_next_commands(folder, built):
    report = load_report(folder / "out" / "report.json")
    choice = recommend(report)
    lines, text = built.stdout.splitlines(), " ".join(built.stdout.split())
    commands = [shlex.split(line)[1:4] for line in lines if line.startswith("next: ")]
    assert commands[-2:] == [["deployfold", "finish", "out"], ["deployfold", "report", "out"]]
    if choice.row is None:  # a busy machine may find nothing faster
        assert choice.sentence in text
        assert commands[0] == ["deployfold", "bench", "out"]
    else:
        assert f"Take {choice.sentence}" in text
        assert commands[0] == ["deployfold", "run", f"out/{choice.row.artifact}"]
        ran = run(*commands[0][1:], cwd=folder)
        assert ran.returncode == 0, ran.stderr


def test_a_report_ends_as_its_build_did(folder, built):
    shown = run("report", "out", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.rpartition("╯")[2] == built.stdout.rpartition("╯")[2]


def test_a_bench_ends_with_the_file_to_take(tmp_path):
    """Two files have the same name, so the row's title has the directory."""
    report = sample_report()
    index = next(i for i, row in enumerate(report.rows) if row is recommend(report).row)
    rows = list(report.rows)
    rows[index] = rows[index].model_copy(update={"name": "b/net.onnx", "artifact": "net.onnx"})
    report = report.model_copy(update={"rows": tuple(rows)})
    lines = closing_lines(report, None, [Path("a/net.onnx"), Path("b/net.onnx")])
    assert lines[0][0] == f"Take {recommend(report).sentence}"
    assert lines[1] == ("Its file is b/net.onnx.", True)
    assert lines[-1] == ("next: deployfold run b/net.onnx  run it once", True)
    # A bench does not recommend another bench.
    engine = report.rows[-1].model_copy(update={"artifact": "net.engine"})
    unmeasured = report.model_copy(update={"rows": (engine,)})
    commands = [line for line, _ in closing_lines(unmeasured, tmp_path) if "next: " in line]
    assert "deployfold bench" in commands[0]
    again = [line for line, _ in closing_lines(unmeasured, tmp_path, [tmp_path])]
    assert not [line for line in again if "deployfold bench" in line.partition("next: ")[2]]


def test_quiet_prints_errors_alone(folder, tmp_path):
    words = ("build", "net.pt", "--no-engine", "--no-measure", "--quiet", "--input", SHAPE)
    done = run(*words, "-o", str(tmp_path / "quiet"), cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "quiet" / "report.json").is_file()
    fails(run("build", "nothing.pt", "--quiet", *QUICK, cwd=folder), 3, "nothing.pt does not exist")


def test_a_profile_shows_what_differs_from_the_defaults_first(tmp_path):
    words = ("profile", "show", "edge-int8", "--target", "l4")
    lines = run(*words, cwd=tmp_path, COLUMNS="100").stdout.splitlines()
    assert "INT8 with an FP16 rest" in lines[0]
    origins = [line.split()[2] for line in lines[2:]]
    changed = [origin for origin in origins if origin != "default"]
    assert len(changed) == 5
    assert origins[:5] == changed
    found = json.loads(run(*words, "--json", cwd=tmp_path).stdout)
    assert found["target"] == {"value": ["l4"], "from": "flag"}
    assert found["fp16"] == {"value": True, "from": "profile edge-int8"}
