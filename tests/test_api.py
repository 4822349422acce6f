"""The Python API, and that importing it costs nothing."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import resources

import pytest
import torch
from torch import nn
from torchvision import models

import deployfold
from deployfold.config.accuracy import GuardSpec
from deployfold.config.precision import Precision
from deployfold.config.real_data import CalibrationSpec
from deployfold.errors import ExportError, FoldError, LoadError, UsageError


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
    with pytest.raises(UsageError, match="not an export format"):
        deployfold.export(result.model, inputs, tmp_path / "out", formats=("onyx",))
    report = deployfold.build(
        tmp_path / "net.pt",
        output=tmp_path / "b",
        inputs=["1x3x8x8"],
        engine=False,
        max_seconds=0.2,
        precisions=[Precision.BF16],
    )
    assert report.status.state == "complete"
    assert report.rows[0].name == "pytorch"
    assert "onnxruntime-bf16" in {row.name for row in report.rows}
    with pytest.raises(UsageError, match="FP8 needs data"):
        deployfold.build(
            tmp_path / "net.pt", output=tmp_path / "c", inputs=["1x3x8x8"], engine=False,
            precisions=[Precision.FP8],
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_in_a_dtype_that_cannot_be_checked_is_built_in_float32(dtype, net, tmp_path):
    torch.save(net.to(dtype), tmp_path / "net.pt")
    report = deployfold.build(
        tmp_path / "net.pt", output=tmp_path, inputs=["1x3x8x8"], engine=False, measure=False
    )
    assert report.status.state == "complete"
    assert report.inputs[0].dtype == "float32"
    assert str(dtype).removeprefix("torch.") in " ".join(report.notes)
    folded = deployfold.fold(
        deployfold.load(tmp_path / "net.pt"), (torch.ones(1, 3, 8, 8).to(dtype),)
    )
    assert folded.model[0].weight.dtype == dtype, "folding alone keeps it"


def test_fp16_after_a_refused_precision_is_built_once(net, tmp_path):
    torch.save(net, tmp_path / "net.pt")
    report = deployfold.build(
        tmp_path / "net.pt",
        output=tmp_path / "b",
        inputs=["1x3x8x8"],
        engine=False,
        measure=False,
        precisions=[Precision.INT8, Precision.FP16],
        calibration=CalibrationSpec("random", samples=4),
        guard=GuardSpec(min_sqnr_db=200.0),
    )
    assert report.status.state == "failed"
    names = [row.name for row in report.rows]
    assert names.count("onnxruntime-fp16") == 1
    assert names.count("onnxruntime-int8") == 1


def test_functions_keep_their_names_beside_the_subpackages():
    """No package has the name of an API function, so users can import any of them."""
    code = (
        "import deployfold.folding.rules.match, deployfold.loading, deployfold.exporting;"
        "import deployfold.building.pipeline, deployfold;"
        "names = ('load', 'fold', 'export', 'build');"
        "print(all(callable(getattr(deployfold, name)) for name in names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_signatures_are_those_of_the_documentation():
    def parameters(function):
        return {
            name: (item.kind.name, item.default)
            for name, item in inspect.signature(function).parameters.items()
        }

    positional, keyword, empty = "POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY", inspect.Parameter.empty
    assert parameters(deployfold.load) == {
        "source": (positional, empty),
        "arch": (keyword, None),
        "arch_args": (keyword, None),
        "weights": (keyword, None),
        "allow_globals": (keyword, ()),
        "trust": (keyword, False),
    }
    assert parameters(deployfold.fold) == {
        "model": (positional, empty),
        "example_inputs": (positional, empty),
        "reparam": (keyword, True),
        "norm_affine": (keyword, True),
        "keep_parametrizations": (keyword, False),
        "reestimate_bn": (keyword, ()),
        "more_inputs": (keyword, ()),
        "check_inputs": (keyword, ()),
    }
    assert list(parameters(deployfold.export))[:3] == ["model", "example_inputs", "directory"]
    assert parameters(deployfold.build)["source"] == (positional, empty)
    for name in deployfold.__all__:
        if name != "__version__":
            assert inspect.getdoc(getattr(deployfold, name)), name


def test_types_are_shipped():
    assert resources.files("deployfold").joinpath("py.typed").is_file()


def test_errors_are_of_the_stage_that_failed(net, tmp_path):
    with pytest.raises(LoadError, match="does not exist"):
        deployfold.load(tmp_path / "nothing.pt")
    with pytest.raises(FoldError):
        deployfold.fold(net, (torch.randn(1, 5, 8, 8),))
    with pytest.raises(AttributeError, match="no attribute"):
        deployfold.nothing  # noqa: B018


def test_a_model_that_is_random_is_not_exported(tmp_path):
    class Noisy(nn.Module):
        def forward(self, x):
            return torch.bernoulli(x)

    with pytest.raises(ExportError, match="draws random numbers"):
        deployfold.export(Noisy().eval(), (torch.full((9, 9), 0.5),), tmp_path)
    assert not list(tmp_path.iterdir())


def test_folding_never_changes_the_model_it_is_given(net):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    result = deployfold.fold(net, (torch.randn(1, 3, 8, 8),))
    assert result.model is not net
    assert type(result.model) is type(net)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, deployfold; print('torch' in sys.modules, deployfold.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", deployfold.__version__]


def test_load_takes_the_set_of_weights_and_the_arguments_that_it_is_given(tmp_path):
    raw, ema = (models.resnet18(num_classes=5) for _ in range(2))
    torch.save({"model": raw.state_dict(), "ema": ema.state_dict()}, tmp_path / "two.pth")
    loaded = deployfold.load(
        tmp_path / "two.pth",
        arch="torchvision:resnet18",
        arch_args={"num_classes": 5},
        weights="ema",
    )
    torch.testing.assert_close(loaded.fc.weight, ema.fc.weight)
    with pytest.raises(UsageError, match="nothing"):
        deployfold.load(tmp_path / "two.pth", arch="torchvision:resnet18", weights="nothing")
