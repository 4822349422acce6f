"""The study of BatchNorm folding, on a small network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

STUDY = Path(__file__).parents[2] / "examples" / "bn_folding_study.py"


@pytest.mark.slow
def test_folding_changes_no_prediction(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    words = ["resnet18", "--epochs", "2", "--samples", "600", "--seconds", "4", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, str(STUDY), *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # 4,800 channels: a weight and a bias each are gone, and each layer got a bias for them.
    assert "20 of 20" in done.stdout
    assert "(-4,800)" in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    for title in ("PyTorch, folded", "TorchScript", "ONNX Runtime"):
        (row,) = [row for row in rows if row.startswith(f"| {title} |")]
        assert "0 of 120 images" in row
        assert re.search(r"\| \d[\d.]* \[[\d.]+, [\d.]+\] \|", row), row
    accuracies = {float(row.split(" | ")[1].rstrip("%")) for row in rows if "%" in row}
    assert len(accuracies) == 1, "the same before and after"
    assert accuracies.pop() > 50, "it has learnt the digits"
    assert list(tmp_path.iterdir()) == []
