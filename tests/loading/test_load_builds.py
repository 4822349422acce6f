"""Models as people have them, from the file to the exported graphs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import deployfold
from deployfold.building.fold_file import fold_file
from deployfold.building.journal import Journal
from deployfold.building.load import load
from deployfold.config.make_spec import make_spec
from deployfold.config.optimization_profiles import parse_profile
from deployfold.config.real_data import CalibrationSpec
from deployfold.errors import ExportError, UsageError
from deployfold.events import ignore
from deployfold.reporting.report import Report
from deployfold.sweep.fleet import read_fleet


@dataclass
class Output:
    logits: torch.Tensor
    features: tuple[torch.Tensor, ...]
    loss: torch.Tensor | None = None


class Net(nn.Module):
    """Takes a keyword-only mask, and returns a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, image: torch.Tensor, *, mask: torch.Tensor) -> Output:
        found = self.norm(self.conv(image)) * mask
        return Output(found.mean((2, 3)), (found, found + 1))


class Open(nn.Module):
    """Takes anything, as the models of ultralytics do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found = self.norm(self.conv(x))
        return found, {"boxes": found + 1, "levels": [found * 2, found * 3]}


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)) + tokens.sum()


def wide(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))


def build(tmp_path: Path, module: nn.Module, **options: Any) -> Report:
    torch.manual_seed(0)
    path = tmp_path / "net.pt"
    options.setdefault("arch", f"{__name__}:{type(module).__name__}")
    torch.save(options.pop("content", module.state_dict()), path)
    return deployfold.build(path, output=tmp_path / "out", engine=False, measure=False, **options)


def made(report: Report) -> set[str]:
    return {row.name for row in report.rows if row.artifact is not None}


def test_keywords_in_and_a_dataclass_out_are_exported_in_every_format(tmp_path: Path) -> None:
    report = build(tmp_path, Net(), inputs=["image=1x3x8x8", "mask=1x1x8x8"])
    assert {"folded", "torchscript", "program", "onnxruntime"} <= made(report)
    graph = onnx.load(tmp_path / "out" / "net.onnx").graph
    assert [value.name for value in graph.input] == ["image", "mask"]
    assert [value.name for value in graph.output] == ["logits", "features_0", "features_1"]
    assert not [node for node in graph.node if node.op_type == "BatchNormalization"]


def test_open_arguments_and_nested_outputs_under_a_dynamic_batch(tmp_path: Path) -> None:
    report = build(tmp_path, Open(), inputs=["1x3x8x8"], dynamic_batch=(1, 2, 4))
    assert {"folded", "torchscript", "program", "onnxruntime"} <= made(report)
    onnx_row = next(row for row in report.rows if row.name == "onnxruntime")
    assert not any("dynamo" in note for note in onnx_row.notes), onnx_row.notes
    script = next(row for row in report.rows if row.name == "torchscript")
    assert any("one tuple: output_0, output_1_boxes" in note for note in script.notes)
    loaded = torch.jit.load(str(tmp_path / "out" / "net.ts.pt"))
    assert len(loaded(torch.ones(2, 3, 8, 8))) == 4


class Unpicklable(nn.Module):
    """Holds a lambda, as the models of pytorchvideo do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.act = lambda x: x.relu()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.conv(x)))


def test_a_module_that_cannot_be_pickled_is_exported_all_the_same(tmp_path: Path) -> None:
    report = build(tmp_path, Unpicklable(), inputs=["1x3x8x8"])
    assert {"torchscript", "program", "onnxruntime"} == made(report)
    (note,) = [note for note in report.notes if "net.folded.pt is not written" in note]
    assert "lambda" in note
    written = {"arch": f"{__name__}:Unpicklable", "input": ["1x3x8x8"]}
    with pytest.raises(ExportError, match="cannot be pickled"):
        fold_file(make_spec(str(tmp_path / "net.pt"), written), tmp_path / "folded.pt")


def test_named_arrays_reach_keywords(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", mask=np.ones((3, 4, 8, 8)), image=np.ones((3, 3, 8, 8)))
    spec = make_spec(f"{__name__}:Net", {"input-data": str(tmp_path / "in.npz")})
    loaded = load(spec, Journal(ignore))
    assert str(loaded.inputs) == "mask=1x4x8x8, image=1x3x8x8"
    assert loaded.model.module(*loaded.example)["logits"].shape == (1, 4)


def test_named_arrays_give_shapes_and_dtypes(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "in.npz",
        x=np.random.default_rng(0).random((3, 3, 16, 16)), tokens=np.arange(15).reshape(3, 5),
    )  # fmt: skip
    report = build(tmp_path, Two(), input_data=CalibrationSpec(str(tmp_path / "in.npz")))
    assert [(one.name, tuple(one.shape), one.dtype) for one in report.inputs] == [
        ("x", (1, 3, 16, 16), "float32"),
        ("tokens", (1, 5), "int64"),
    ]
    np.savez(tmp_path / "in.npz", x=np.ones((3, 3, 16, 16)), labels=np.arange(3))
    with pytest.raises(UsageError, match="takes 2 inputs"):
        build(tmp_path, Two(), input_data=CalibrationSpec(str(tmp_path / "in.npz")))


@pytest.mark.parametrize("inputs", [["1x3x8x8"], ["1x3x8x8:float16"], ["1x3x8x8:float32"]])
def test_a_half_precision_module_is_built_in_float32(inputs: list[str], tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU()).eval().half()
    content = {"epoch": -1, "model": module, "ema": None}
    report = build(tmp_path, module, arch=None, content=content, inputs=inputs)
    graph = onnx.load(tmp_path / "out" / "net.onnx").graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert any("float16 weights were converted to float32" in note for note in report.notes)


class Halved(nn.Sequential):
    """Refuses to compute in half precision, in which a detector would not end on a CPU."""

    def forward(self, x: torch.Tensor) -> Any:
        assert x.dtype == torch.float32 or x.is_meta
        return Output(super().forward(x), ())


def test_fold_keeps_the_precision_of_the_file_and_computes_in_float32(tmp_path: Path) -> None:
    module = Halved(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval().half()
    torch.save({"epoch": -1, "model": module, "ema": None}, tmp_path / "best.pt")
    spec = make_spec(str(tmp_path / "best.pt"), {"trust": True, "input": ["1x3x8x8"]})
    fold_file(spec, tmp_path / "folded.pt")
    folded = torch.load(tmp_path / "folded.pt", weights_only=False)
    assert {one.dtype for one in folded.parameters()} == {torch.float16}
    x = torch.randn(1, 3, 8, 8)
    found, expected = folded.float()(x).logits, module.float()(x).logits
    assert torch.allclose(found, expected, atol=2e-3)


def test_the_original_has_the_size_of_its_weights(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 512, 3), nn.BatchNorm2d(512))
    optimizer = {"state": {0: {"exp_avg": torch.ones(1_000_000)}}, "param_groups": []}
    content = {"model": module, "optimizer": optimizer}
    report = build(tmp_path, module, arch=None, content=content, inputs=["1x3x8x8"])
    size = sum(value.nbytes for value in module.state_dict().values())
    assert report.rows[0].bytes == size < 100_000
    assert report.source.bytes == (tmp_path / "net.pt").stat().st_size > 4_000_000


def test_weights_and_arguments_of_the_architecture_are_options(tmp_path: Path) -> None:
    first, second = wide(6), wide(6)
    content = {"model": first.state_dict(), "model_ema": second.state_dict()}
    report = build(
        tmp_path, first, arch=f"{__name__}:wide", content=content,
        inputs=["1x3x8x8"], weights="ema", arch_options=["width=6"],
    )  # fmt: skip
    assert report.rows[0].parameters == sum(one.numel() for one in second.parameters())
    folded = torch.load(tmp_path / "out" / "net.folded.pt", weights_only=False)
    x = torch.randn(1, 3, 8, 8)
    assert torch.allclose(folded(x), second.eval()(x), atol=1e-5)
    with pytest.raises(UsageError, match=r"'width' is not NAME=VALUE"):
        build(tmp_path, first, inputs=["1x3x8x8"], arch_options=["width"])


def test_the_users_code_is_built_and_a_fleet_file_may_not_name_code(tmp_path: Path) -> None:
    report = deployfold.build(
        f"{__name__}:wide", output=tmp_path / "out", inputs=["1x3x8x8"], engine=False, measure=False
    )
    assert report.source.kind == "factory"
    assert (tmp_path / "out" / "wide.onnx").is_file()
    (tmp_path / "fleet.toml").write_text('[[model]]\nsource = "os:getcwd"\n')
    with pytest.raises(UsageError, match="must not run"):
        read_fleet(tmp_path / "fleet.toml")


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, image: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(image)) * size[0] + size[1]


def test_an_input_without_a_batch_axis_is_served_by_shapes(tmp_path: Path) -> None:
    inputs = ["image=1x3x8x8", "size=2"]
    with pytest.raises(ExportError, match=r"fails on inputs of shape 2x3x8x8, 1") as caught:
        build(tmp_path, Scaled(), inputs=inputs, dynamic_batch=(1, 2, 4))
    assert "--shapes" in str(caught.value.hint)
    shapes = (parse_profile("image=1x3x8x8:2x3x8x8:4x3x8x8,size=2:2:2"),)
    report = build(tmp_path, Scaled(), inputs=inputs, shapes=shapes)
    assert {"program", "onnxruntime"} <= made(report)
