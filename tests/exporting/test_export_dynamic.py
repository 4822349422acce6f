"""Axes other than the batch that stay dynamic, in both exporters, and what a model fixes."""

from __future__ import annotations

from pathlib import Path

import export_toys as toys
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from deployfold.config.inputs import InputSpec
from deployfold.config.optimization_profiles import parse_profile
from deployfold.errors import ExportError
from deployfold.exporting.dynamic import checking_inputs, tracing_inputs


class Segmenter(nn.Module):
    """Fully convolutional, with a skip connection over a change of resolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 3, 2, stride=2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image + self.up(torch.relu(self.down(image)))


def spec_of(inputs: tuple[torch.Tensor, ...], *names: str, profiles: list[str]) -> InputSpec:
    spec = toys.spec_for(inputs, *names)
    return spec.with_profiles(tuple(parse_profile(text) for text in profiles))


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_height_and_width_are_dynamic_apart(tmp_path: Path, exporter: str) -> None:
    module, inputs = Segmenter().eval(), (torch.randn(1, 3, 16, 16),)
    spec = spec_of(inputs, profiles=["1x3x16x16:1x3x16x16:4x3x64x64"])
    program = None
    if exporter == "dynamo":
        program, _ = toys.export_program(module, inputs, tmp_path / "m.pt2", spec=spec)
    path = tmp_path / "m.onnx"
    made = toys.export_onnx(module, inputs, path, spec=spec, program=program)
    assert made.exporter == exporter
    (image,) = onnx.load(path).graph.input
    dimensions = [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim]
    assert dimensions == ["batch", 3, "image_dim_2", "image_dim_3"]
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 16, 64), (3, 3, 48, 32)):
        x = torch.randn(shape)
        (output,) = session.run(None, {"image": x.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(output, module(x).numpy(), atol=1e-5)


def test_inputs_that_must_agree_share_an_axis(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return tokens * mask

    inputs = (torch.randn(1, 16), torch.ones(1, 16))
    profiles = ["tokens=1x8:1x16:4x64,mask=1x8:1x16:4x64"]
    spec = spec_of(inputs, "tokens", "mask", profiles=profiles)
    program, _ = toys.export_program(Masked(), inputs, tmp_path / "m.pt2", spec=spec)
    path = tmp_path / "m.onnx"
    toys.export_onnx(Masked(), inputs, path, spec=spec, program=program)
    shapes = [
        [dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in onnx.load(path).graph.input
    ]
    assert shapes == [["batch", "tokens_dim_1"]] * 2


def test_an_axis_that_the_code_compares_is_an_error(tmp_path: Path) -> None:
    """The code runs at every size, but torch.export silently fixes the size that it traced."""

    class Doubled(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image * 2 if image.shape[3] == 8 else image

    inputs = toys.image_inputs(1)
    spec = spec_of(inputs, profiles=["1x3x8x8:1x3x8x8:1x3x8x12"])
    with pytest.raises(ExportError, match="fixes axis 3 of the input 'image' to 8"):
        toys.export_program(Doubled(), inputs, tmp_path / "m.pt2", spec=spec)


def test_an_axis_that_the_model_fixes_is_an_error(tmp_path: Path) -> None:
    module, inputs = toys.conv_bn(), toys.image_inputs(1)  # its linear layer wants 8x8 pictures
    spec = spec_of(inputs, profiles=["1x3x8x8:1x3x8x8:1x3x8x12"])
    with pytest.raises(ExportError):
        toys.export_program(module, inputs, tmp_path / "m.pt2", spec=spec)
    assert not list(tmp_path.iterdir())


def test_checks_differ_along_every_dynamic_axis() -> None:
    inputs = (torch.arange(48.0).reshape(1, 3, 4, 4),)
    spec = spec_of(inputs, profiles=["1x3x4x4:1x3x4x8:2x3x4x8", "1x3x4x4:1x3x6x4:2x3x6x4"])
    first, second = checking_inputs(inputs, spec)
    torch.testing.assert_close(first[0], inputs[0])
    sizes = zip(first[0].shape, second[0].shape, strict=True)
    assert [one != other for one, other in sizes] == [True, False, True, True]
    assert min(axis for axis in tracing_inputs(inputs, spec)[0].shape) >= 2
