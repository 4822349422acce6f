"""The examples run unchanged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deployfold.loading import load_model

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_make_resnet50_writes_a_model_with_statistics_of_its_own(tmp_path):
    pytest.importorskip("torchvision")
    path = tmp_path / "resnet50.pt"
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "make_resnet50.py"), str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "weights" in done.stdout
    model = load_model(str(path)).module  # without any flag
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 53
    assert all(float(norm.running_mean.abs().max()) > 0 for norm in norms)
    with torch.no_grad():
        output = model(torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    # Activations of a trained net's size, so that fp16 has something realistic to hold.
    assert 0.01 < float(output.abs().max()) < 100
