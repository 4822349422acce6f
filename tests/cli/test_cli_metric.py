"""``--metric``: numbers of the task in every row, in limits, in ``compare`` and in the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runs import fails, make, run
from PIL import Image

METRIC = """
import numpy as np


def margin(outputs, labels):
    found = np.concatenate([one[0] for one in outputs])
    known = np.concatenate(labels)
    assert len(found) == len(known)
    return {"margin": float((found[np.arange(len(known)), known] - found.mean(1)).mean())}
"""
FLAGS = (
    "--input", "1x3x16x16", "--fp16", "--int8", "--calib", "pictures/", "--no-engine",
    "--threads", "1", "--max-seconds", "0.3", "--min-sqnr", "10",
)  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metric")
    torch.save(make(), folder / "net.pt")
    (folder / "mine_of_cli.py").write_text(METRIC)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 12, 3), np.uint8)
    lines = []
    (folder / "pictures").mkdir()
    for index, image in enumerate(pixels):
        Image.fromarray(image).resize((24, 18)).save(folder / "pictures" / f"{index}.png")
        lines.append(f"{index}.png,{index % 3}\n")
    (folder / "labels.csv").write_text("".join(lines))
    done = run(
        "build", "net.pt", *FLAGS, "--labels", "labels.csv", "--metric", "mine_of_cli:margin",
        "--metric", "top1", "--min-metric", "margin=-50%", "--min-metric", "top1=0", "-o", "out",
        "--html", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_every_row_has_the_numbers(built: Path) -> None:
    report = json.loads((built / "out" / "report.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    for name in ("pytorch", "folded", "torchscript", "program", "onnxruntime"):
        assert rows[name]["scores"] == pytest.approx(rows["pytorch"]["scores"], rel=1e-4)
    for name in ("onnxruntime-fp16", "onnxruntime-int8"):
        assert set(rows[name]["scores"]) == {"margin", "top1"}
        assert rows[name]["scores"]["margin"] != rows["pytorch"]["scores"]["margin"]
    assert "mine_of_cli:margin, top1: on 3 samples" in " ".join(report["notes"])
    limits = {one["name"]: one for one in report["thresholds"]}
    assert limits["min-metric margin"]["passed"]
    assert "margin" in (built / "out" / "report.md").read_text()
    assert "margin" in (built / "out" / "report.html").read_text()


def test_reports_sort_and_compare_by_a_task_metric(built: Path) -> None:
    done = run("report", "out", "--sort", "metric.margin", cwd=built)
    assert done.returncode == 0, done.stderr
    assert "margin" in done.stdout
    worse = json.loads((built / "out" / "report.json").read_text())
    for row in worse["rows"][1:]:
        row["scores"]["margin"] -= 0.1 * abs(row["scores"]["margin"])
    (built / "worse.json").write_text(json.dumps(worse))
    done = run("compare", "out", "worse.json", cwd=built)
    fails(done, 7, "metric.margin went from")
    done = run("compare", "out", "worse.json", "--fail", "metric.margin=20%", cwd=built)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run("compare", "out", "out", "--min-metric", "margin=1000", cwd=built)
    fails(done, 7, "min-metric margin 1000 is missed")


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--metric", "top1"), 2, "--metric top1 takes labels of classes, but there are no labels"),
        (("--metric", "best"), 2, "There is no metric 'best'"),
        (("--metric", "mine_of_cli:none"), 2, "mine_of_cli has no none"),
        (("--min-metric", "top1=1"), 2, "--min-metric has no effect: no task metric is measured"),
        (
            ("--metric", "mean_iou", "--labels", "labels.csv"), 2,
            "--metric mean_iou takes labels of masks, but the labels are classes",
        ),
        (
            ("--metric", "top1", "--labels", "labels.csv", "--min-metric", "top5=1"), 2,
            "--min-metric top5=1: no metric of this build has that name",
        ),
    ],
)  # fmt: skip
def test_mistakes_end_before_the_build(
    built: Path, flags: tuple[str, ...], code: int, message: str
) -> None:
    fails(run("build", "net.pt", *FLAGS, *flags, "-o", "wrong", cwd=built), code, message)


def test_a_profile_cannot_name_code(built: Path) -> None:
    (built / "p.toml").write_text('metric = ["mine_of_cli:margin"]\n')
    done = run("build", "net.pt", "--profile", "p.toml", "-o", "profiled", cwd=built)
    assert done.returncode == 2
    assert "metric" in done.stderr
