"""The Python API, and that importing it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import deployfold
from deployfold.errors import UsageError


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()


def test_load_fold_export_and_build(net, tmp_path):
    torch.save(net, tmp_path / "net.pt")
    inputs = (torch.randn(1, 3, 8, 8),)
    model = deployfold.load(tmp_path / "net.pt")
    result = deployfold.fold(model, inputs)
    assert [(item.name, item.into) for item in result.folded] == [("1", ("0",))]
    artifacts = deployfold.export(
        result.model, inputs, tmp_path / "out", name="net", dynamic_batch=(1, 2, 4)
    )
    assert set(artifacts) == {"torchscript", "program", "onnx"}
    assert all(artifact.path.is_file() for artifact in artifacts.values())
    with pytest.raises(UsageError, match="no export format"):
        deployfold.export(result.model, inputs, tmp_path / "out", formats=("onyx",))
    report = deployfold.build(
        tmp_path / "net.pt",
        output=tmp_path / "b",
        inputs=["1x3x8x8"],
        engine=False,
        max_seconds=0.2,
    )
    assert report.status.state == "complete"
    assert report.rows[0].name == "pytorch"


def test_functions_keep_their_names_beside_the_subpackages():
    """Importing deployfold.fold must not turn deployfold.fold(…) into a module."""
    code = (
        "import deployfold, deployfold.fold, deployfold.load, deployfold.export;"
        "from deployfold.fold import FoldResult;"
        "print(all(callable(f) for f in (deployfold.load, deployfold.fold, deployfold.export)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, deployfold; print('torch' in sys.modules, deployfold.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", deployfold.__version__]
