"""Ctrl-C and SIGTERM at every stage: whole artifacts, an honest report, and no process left."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cli_runs import DEPLOYFOLD, QUICK, check_whole, environment, run

from deployfold.compiling import worker
from deployfold.reporting.report import load_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc"),
]
BUILD = ("build", "net.pt", "--fp16", "--target", "l4", *QUICK)


def _start(folder: Path, output: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [DEPLOYFOLD, *BUILD, "--max-seconds", "60", "-o", str(output)],
        cwd=folder,
        env=environment(PYTHONUNBUFFERED="1"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        encoding="utf-8",
        # A shell that runs the tests in the background has Ctrl-C ignored, and children inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def _end(process: subprocess.Popen[str], number: int) -> str:
    """Send the signal; return the end of the process's output."""
    assert process.poll() is None, "it ended before the signal"
    process.send_signal(number)
    try:
        _, rest = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, rest
    assert "Error: Interrupted." in rest
    assert "Traceback" not in rest
    return rest


def _wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _children(process: subprocess.Popen[str]) -> list[int]:
    """The Python processes that it started: the compile worker."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    pids = [int(pid) for task in tasks for pid in _read(task).split()]
    # Not "worker" alone: a child that has not yet begun has our command line, with the test's name.
    return [pid for pid in pids if worker.__name__ in _read(Path(f"/proc/{pid}/cmdline"))]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return ""


@pytest.mark.parametrize(
    ("after", "number", "artifacts"),
    [
        ("✓ load", signal.SIGTERM, set()),
        ("✓ fold", signal.SIGINT, {"net.folded.pt"}),
        ("✓ compile", signal.SIGTERM, {"net.ts.pt", "net.fp16.onnx", "net.fp16.sm_89.engine"}),
    ],
)
def test_a_stopped_build_leaves_whole_artifacts(folder, tmp_path, after, number, artifacts):
    process = _start(folder, tmp_path / "o")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(after):
            break
    time.sleep(0.3)  # into the next stage
    said = _end(process, number)
    names = check_whole(tmp_path / "o")
    listed = re.search(r"keeps the complete artifacts: (.+?)\. deployfold report", said)
    assert set(listed[1].split(", ") if listed else []) >= artifacts
    assert listed is not None or "No artifact was complete." in said
    assert names >= artifacts | {"report.json", "report.md"}
    report = load_report(tmp_path / "o" / "report.json")
    assert report.status.state == "interrupted"
    assert all(row.artifact is None or row.artifact in names for row in report.rows)
    if after == "✓ compile":
        assert report.status.stage == "measure"
        again = run(*BUILD, "--no-measure", "-o", str(tmp_path / "o"), cwd=folder)
        assert again.returncode == 0, again.stderr
        assert load_report(tmp_path / "o" / "report.json").status.state == "complete"
        check_whole(tmp_path / "o")


def test_stopped_while_torch_is_imported(folder, tmp_path):
    process = _start(folder, tmp_path / "o")
    _wait_for(lambda: "libtorch" in _read(Path(f"/proc/{process.pid}/maps")))
    _end(process, signal.SIGINT)
    assert not (tmp_path / "o").exists()


def test_the_compile_worker_dies_with_the_build(folder, tmp_path):
    process = _start(folder, tmp_path / "o")
    _wait_for(lambda: _children(process))
    (pid,) = _children(process)
    _end(process, signal.SIGINT)
    # At once if the build follows it already; else when the worker finds its stdin closed.
    _wait_for(lambda: not Path(f"/proc/{pid}").exists())
    names = check_whole(tmp_path / "o")
    assert "net.fp16.onnx" in names
    assert not [name for name in names if name.endswith((".engine", ".reproduce.sh"))]
    report = load_report(tmp_path / "o" / "report.json")
    assert (report.status.state, report.status.stage) == ("interrupted", "compile")
