"""``action.yml``: the steps that GitHub runs, run here by its rules."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_examples_release import save

from deployfold.bundle.scan import scan

yaml = pytest.importorskip("yaml")
ACTION: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "action.yml").read_text())
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
EXPRESSION = re.compile(r"\$\{\{ (inputs|steps)\.([\w.-]+) \}\}")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="its steps are shell scripts")


def test_the_action_is_a_composite_of_shell_steps() -> None:
    assert ACTION["runs"]["using"] == "composite"
    used = set()
    for step in STEPS:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"], "the text of an input must not become a script"
        subprocess.run(["bash", "-n", "-c", step["run"]], check=True)
        values = [*step["env"].values(), step.get("if", "")]
        used |= {name for value in values for name in re.findall(r"inputs\.([\w-]+)", value)}
    assert used == set(ACTION["inputs"])
    for output in ACTION["outputs"].values():
        step, _, name = EXPRESSION.search(output["value"])[2].partition(".outputs.")
        (source,) = [one for one in STEPS if one["id"] == step]
        assert f'echo "{name}=' in source["run"]


def run_action(folder: Path, **given: str) -> tuple[int, dict[str, str]]:
    """Run the steps until one fails; the exit code, and the outputs of the action."""
    inputs = {name: one.get("default") for name, one in ACTION["inputs"].items()} | given
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    files = {name: str(folder / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    code = 0
    for step in STEPS:
        condition = re.fullmatch(r"inputs\.([\w-]+) != ''", step.get("if", "inputs.model != ''"))
        if not inputs[condition[1]]:
            continue
        env = {name: EXPRESSION.sub(lambda one: inputs[one[2]], value)
               for name, value in step["env"].items()}  # fmt: skip
        code = subprocess.run(
            # As GitHub calls it for `shell: bash`.
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=folder, env={**os.environ, "PATH": path, **files, **env}, check=False,
        ).returncode  # fmt: skip
        if code:
            break
    written = (folder / "GITHUB_OUTPUT").read_text().splitlines()
    return code, dict(line.split("=", 1) for line in written)


@pytest.mark.slow
def test_its_steps_build_compare_and_bundle(tmp_path: Path) -> None:
    save(tmp_path / "net.ts.pt")
    flags = "--input 1x3x16x16 --no-engine --max-seconds 0.5 --threads 1"
    common = {"model": "net.ts.pt", "install": ""}
    code, outputs = run_action(tmp_path, flags=flags, output="first", **common)
    assert code == 0
    assert outputs == {"report": "first/report.json", "bundle": "model.tar.zst"}
    assert scan(tmp_path / "model.tar.zst").name == "net"
    summary = (tmp_path / "GITHUB_STEP_SUMMARY").read_text()
    assert "PyTorch (original)" in summary or "TorchScript" in summary

    (tmp_path / "model.tar.zst").unlink()
    words = {"compare-with": "first/report.json", "bundle": ""}
    code, outputs = run_action(
        tmp_path, flags=f"{flags} --no-measure", output="second", **common, **words
    )
    assert code in (0, 7)
    assert outputs["report"] == "second/report.json"
    assert (tmp_path / "second" / "compare.md").read_text() in (
        tmp_path / "GITHUB_STEP_SUMMARY"
    ).read_text()
    assert not (tmp_path / "model.tar.zst").exists()

    limit = "--max-diff-of onnxruntime=1e-30"
    code, _ = run_action(tmp_path, flags=f"{flags} {limit}", output="third", **common)
    assert code == 7
