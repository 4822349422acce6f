"""Inputs agree with what the forward takes."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from deployfold.config.inputs import InputSpec
from deployfold.config.optimization_profiles import DynamicBatch
from deployfold.errors import UsageError
from deployfold.loading import LoadedModel, load_model, make_inputs, resolve_inputs
from deployfold.loading.arguments import with_arguments
from deployfold.loading.zoo import input_size


def loaded(module: nn.Module) -> LoadedModel:
    return LoadedModel(module.eval(), "module", "net", None, "net.pt")


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, image, mask, scale=None, bias=None):
        return self.linear(image) * mask


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["image=1x4"], "takes 2 to 4 inputs"),
        (["1x4"] * 5, "takes 2 to 4 inputs"),
        (["image=1x4", "mark=1x4"], "no input named 'mark'"),
        (["image=1x4", "mask=1x4", "bias=1x4"], "'scale' has no shape"),
    ],
)
def test_inputs_that_do_not_fit_the_forward(texts, words):
    with pytest.raises(UsageError, match=words):
        resolve_inputs(loaded(Masked()), InputSpec.parse(texts))


class Pictured(nn.Module):
    def forward(self, *, picture, mask):
        return picture * mask


class Rest(nn.Module):
    def forward(self, picture, *rest):
        return picture * rest[0]


class Items(nn.Module):
    def forward(self, items):
        return items[0] * items[1]


@pytest.mark.parametrize(
    ("module", "texts", "words"),
    [
        (Pictured(), ["1x4", "1x4"], "takes picture, mask by keyword"),
        (Pictured(), ["picture=1x4"], r"takes 2 inputs \(picture, mask\)"),
        (Pictured(), ["mark=1x4"], "Its inputs are: picture, mask"),
        (Items(), ["1x4", "1x4"], r"--input items\.0=SHAPE"),
    ],
)
def test_the_error_says_how_such_inputs_are_given(module, texts, words):
    spec = InputSpec.parse(texts)
    with pytest.raises(UsageError) as caught:
        resolve_inputs(with_arguments(loaded(module), spec), spec)
    assert re.search(words, f"{caught.value.message} {caught.value.hint}")


def test_names_beyond_the_arguments_are_those_of_the_rest():
    spec = InputSpec.parse(["bias=2x4", "picture=1x4"])
    assert resolve_inputs(loaded(Rest()), spec).names == ("picture", "bias")
    assert resolve_inputs(loaded(Rest()), InputSpec.parse(["a=1x4", "b=1x4"])).names == ("a", "b")


def test_first_layer_is_not_enough_for_two_inputs():
    with pytest.raises(UsageError, match="image, mask"):
        resolve_inputs(loaded(Masked()), None)


def test_unnamed_inputs_take_the_places_left():
    spec = InputSpec.parse(["2x4", "image=1x4"])
    resolved = resolve_inputs(loaded(Masked()), spec, (DynamicBatch(1, 2, 4),))
    assert resolved.names == ("image", "mask")
    assert [tensor.shape for tensor in resolved.tensors] == [(1, 4), (2, 4)]
    assert [shapes.max for shapes in resolved.profiles[0]] == [(4, 4), (4, 4)]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize(
    ("layers", "example", "shape"),
    [
        ([nn.ReLU(), nn.Conv2d(5, 8, 3)], torch.randn(1, 5, 9, 9), (1, 5, 224, 224)),
        ([nn.Conv1d(5, 8, 3)], torch.randn(1, 5, 9), (1, 5, 1024)),
        ([nn.Linear(6, 2)], torch.randn(1, 6), (1, 6)),
        ([nn.Embedding(9, 4)], torch.zeros(1, 3, dtype=torch.int64), (1, 16)),
    ],
)
def test_torchscript_input_from_its_graph(layers, example, shape, scripted, frozen, tmp_path):
    net = nn.Sequential(*layers).eval()
    script = torch.jit.script(net) if scripted else torch.jit.trace(net, example)
    torch.jit.save(torch.jit.freeze(script) if frozen else script, tmp_path / "net.pt")
    spec = resolve_inputs(load_model(str(tmp_path / "net.pt")), None)
    assert spec.tensors[0].shape == shape
    assert spec.names == ("input",)
    assert spec.tensors[0].dtype == str(example.dtype).removeprefix("torch.")


def test_program_keeps_the_shapes_it_was_exported_for(tmp_path):
    net = nn.Conv2d(3, 4, 3).eval()
    torch.export.save(torch.export.export(net, (torch.randn(1, 3, 8, 8),)), tmp_path / "net.pt2")
    fixed = load_model(str(tmp_path / "net.pt2"))
    with pytest.raises(UsageError, match="exported for 1x3x8x8"):
        resolve_inputs(fixed, InputSpec.parse(["1x3x9x9"]))
    with pytest.raises(UsageError, match="for the fixed shape"):
        resolve_inputs(fixed, None, (DynamicBatch(1, 2, 4),))
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(net, (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "any.pt2")
    spec = resolve_inputs(load_model(str(tmp_path / "any.pt2")), None, (DynamicBatch(1, 2, 4),))
    assert spec.profiles[0][0].max == (4, 3, 8, 8)


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        ("torchvision:r3d_18", (3, 16, 112, 112)),
        ("torchvision:mvit_v2_s", (3, 16, 224, 224)),
        ("torchvision:deeplabv3_resnet50", (3, 520, 520)),
        ("torchvision:efficientnet_b4", (3, 380, 380)),
        ("torchvision:raft_small", None),
        ("timm:resnet50", (3, 224, 224)),
        ("package.module:factory", None),
    ],
)
def test_input_size_of_an_architecture(arch, size):
    pytest.importorskip(arch.partition(":")[0]) if arch.startswith(("torchv", "timm")) else None
    assert input_size(arch) == size


def test_made_inputs_are_seeded_and_in_range():
    spec = InputSpec.parse(["4x3x8", "4x9:int64", "4x9:uint8", "4x9:bool"])
    first, again, other = make_inputs(spec), make_inputs(spec), make_inputs(spec, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert set(first[1].unique().tolist()) == {0, 1}
    assert int(first[2].max()) > 1
    assert make_inputs(spec.with_batch(2))[0].shape == (2, 3, 8)


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        (64, (1, 3, 64, 64)),
        ([32, 48], (1, 3, 32, 48)),
        (None, (1, 3, 224, 224)),
        ("large", (1, 3, 224, 224)),
    ],
)
def test_a_configuration_of_transformers_names_the_picture(size, shape):
    class Vision(nn.Sequential):
        config = SimpleNamespace(model_type="vit", image_size=size, num_channels=3)

        def forward(self, pixel_values):
            return super().forward(pixel_values)

    spec = resolve_inputs(loaded(Vision(nn.Conv2d(3, 4, 16, 16))), None)
    assert spec.tensors[0].shape == shape
    assert ("configuration" in spec.origin) == (shape[2] != 224)
