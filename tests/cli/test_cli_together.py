"""Two runs in one directory, and the files that a killed run leaves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cli_runs import DEPLOYFOLD, QUICK, environment, fails, run

from deployfold.util.locks import claimed

pytest.importorskip("fcntl", reason="there are no locks here")
AT_WORK = "Another deployfold is at work in"


@pytest.fixture
def out(folder, built, tmp_path) -> Path:
    return Path(shutil.copytree(folder / "out", tmp_path / "out"))


@pytest.mark.parametrize(
    "words",
    [
        ("build", "net.pt", "--no-engine", *QUICK, "-o", "{out}"),
        ("export", "net.pt", "--input", QUICK[1], "-o", "{out}"),
        ("finish", "{out}", "--target", "l4"),
        ("bundle", "{out}", "-o", "{out}.tar.zst"),
        ("bundle", "{out}", "-o", "{out}.triton", "--format", "triton"),
    ],
    ids=lambda words: " ".join(words[:1]),
)
def test_a_directory_that_another_writes_to_is_left_alone(folder, out, words):
    before = {path: path.read_bytes() for path in out.iterdir()}
    with claimed(out):
        fails(run(*(word.format(out=out) for word in words), cwd=folder), 2, AT_WORK)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("words", [("-o", "{out}.zst"), ("-o", "{out}.t", "--format", "triton")])
def test_several_may_read_a_build(folder, out, words):
    with claimed(out, shared=True):
        done = run("bundle", str(out), *(word.format(out=out) for word in words), cwd=folder)
        assert done.returncode == 0, done.stderr
        fails(run("finish", str(out), "--target", "l4", cwd=folder), 2, AT_WORK)


def test_a_killed_build_leaves_no_report_of_the_one_before(folder, out):
    """Both builds have files of the same names and sizes; a stale report would bundle them
    together.
    """
    process = subprocess.Popen(
        [DEPLOYFOLD, "build", "net.pt", "--no-engine", *QUICK, "-o", str(out)],
        cwd=folder, env=environment(PYTHONUNBUFFERED="1"), stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, encoding="utf-8",
    )  # fmt: skip
    assert process.stderr is not None
    assert any(line.startswith("✓ fold") for line in process.stderr)
    process.kill()
    process.communicate()
    assert (out / "net.onnx").exists()
    fails(run("bundle", str(out), cwd=folder), 2, "report.json")
