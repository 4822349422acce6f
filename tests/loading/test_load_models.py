"""Every format of a model loads as the same network."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from deployfold.config.inputs import InputSpec
from deployfold.errors import LoadError, UsageError
from deployfold.folding import Zero
from deployfold.loading import load_model, make_inputs, resolve_inputs

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None, num_classes=10).eval()


def same(first: nn.Module, second: nn.Module) -> bool:
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.allclose(first(x), second(x), atol=1e-5)


WRAPPINGS = {
    "module": lambda m: m,
    "module in a dictionary": lambda m: {"model": m, "epoch": 3},
    "DataParallel": lambda m: nn.DataParallel(m),
    "state dict": lambda m: m.state_dict(),
    "nested": lambda m: {"state_dict": m.state_dict(), "optimizer": {}},
    "nested twice": lambda m: {"checkpoint": 1, "model": {"state_dict": m.state_dict()}},
    "prefixed": lambda m: {"module." + k: v for k, v in m.state_dict().items()},
    "compiled": lambda m: {"model": {"_orig_mod." + k: v for k, v in m.state_dict().items()}},
}


def resnet_values(content):
    """The innermost values of a checkpoint: tensors for a state dict, else the module."""
    if isinstance(content, nn.Module):
        return [content]
    for name in ("model", "state_dict"):
        if name in content:
            return resnet_values(content[name])
    return content.values()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_saved_by_torch(wrap, legacy, resnet, tmp_path):
    path = tmp_path / "my-resnet18_best.pth"
    content = wrap(resnet)
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    if legacy and not isinstance(next(iter(resnet_values(content))), torch.Tensor):
        # torch's restricted unpickler takes no modules in this format.
        with pytest.raises(LoadError, match="before 2020"):
            load_model(str(path))
    loaded = load_model(str(path), trust=legacy)
    assert same(loaded.module, resnet)
    assert not loaded.module.training
    assert loaded.name == "my-resnet18_best"
    if loaded.kind == "state_dict":
        assert loaded.arch == "torchvision:resnet18"
        assert any("Recognised torchvision:resnet18" in note for note in loaded.notes)


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()


@pytest.mark.parametrize("kind", ["module", "state dict"])
def test_a_checkpoint_saved_on_a_gpu_loads_without_one(kind, tmp_path, monkeypatch):
    net, path = small(), tmp_path / "net.pt"
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save(net if kind == "module" else net.state_dict(), path)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(path, weights_only=False)
    loaded = load_model(str(path), arch=None if kind == "module" else f"{__name__}:small")
    assert {tensor.device.type for tensor in loaded.module.state_dict().values()} == {"cpu"}


def test_safetensors(resnet, tmp_path):
    path = tmp_path / "resnet18.safetensors"
    save_file(resnet.state_dict(), path)
    assert same(load_model(str(path)).module, resnet)


def test_the_content_decides_and_not_the_suffix(tmp_path):
    torch.save(small().state_dict(), tmp_path / "net.safetensors")
    save_file(small().state_dict(), tmp_path / "net.pt")
    for name in ("net.safetensors", "net.pt"):
        assert load_model(str(tmp_path / name), arch=f"{__name__}:small").kind == "state_dict"


def test_weights_without_a_choice_are_told(tmp_path):
    torch.jit.save(torch.jit.script(small()), tmp_path / "net.ts")
    loaded = load_model(str(tmp_path / "net.ts"), weights="ema")
    assert "--weights goes with a checkpoint and was not used." in loaded.notes
    with pytest.raises(UsageError, match="--weights has no effect"):
        load_model("torchvision:resnet18", weights="ema")


def test_torchscript_and_program(resnet, tmp_path):
    x = torch.randn(2, 3, 64, 64)
    torch.jit.save(torch.jit.trace(resnet, x), tmp_path / "r.pt")
    torch.export.save(torch.export.export(resnet, (x,)), tmp_path / "r.pt2")
    script = load_model(str(tmp_path / "r.pt"))
    program = load_model(str(tmp_path / "r.pt2"))
    assert (script.kind, program.kind) == ("torchscript", "program")
    assert same(script.module, resnet)
    with torch.no_grad():
        assert torch.allclose(program.module(x), resnet(x), atol=1e-5)
    assert resolve_inputs(program, None).tensors[0].shape == (2, 3, 64, 64)


def test_dynamic_program_passes_the_inspection(resnet, tmp_path):
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(
        resnet, (torch.randn(2, 3, 64, 64),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, tmp_path / "r.pt2")
    loaded = load_model(str(tmp_path / "r.pt2"))
    with torch.no_grad():
        assert loaded.module(torch.randn(5, 3, 64, 64)).shape == (5, 10)


@pytest.mark.parametrize(
    "name", ["resnet50", "vgg16_bn", "efficientnet_b0", "mobilenet_v3_small", "convnext_tiny"]
)
def test_pickled_torchvision_modules_need_no_flag(name):
    _pickles_without_flags(torchvision.models.get_model(name, weights=None))


@pytest.mark.parametrize(
    "name", ["hrnet_w18_small", "efficientnet_b0", "vit_tiny_patch16_224", "convnext_atto"]
)
def test_pickled_timm_modules_need_no_flag(name):
    _pickles_without_flags(timm.create_model(name))


class _Attribute:
    def __init__(self, owner: object, name: str) -> None:
        self.pair = (owner, name)

    def __reduce__(self) -> tuple[object, ...]:
        return getattr, self.pair


@pytest.mark.parametrize(
    ("owner", "name", "loads"),
    [
        (timm.layers.Format, "NCHW", True),
        (timm.layers.Format, "mro", False),
        (nn.Conv2d, "forward", False),
    ],
)
def test_a_member_of_an_enum_is_loaded_as_python_3_11_0_to_3_pickle_it(
    owner, name, loads, tmp_path
):
    path = tmp_path / "net.pt"
    net = nn.Conv2d(3, 4, 3)
    net.layout = _Attribute(owner, name)
    torch.save(net, path)
    if loads:
        assert load_model(str(path)).module.layout is timm.layers.Format.NCHW
    else:
        with pytest.raises(LoadError):
            load_model(str(path))


def _pickles_without_flags(module: nn.Module) -> None:
    from deployfold.loading.safe_globals import allowed_for

    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    allowed = allowed_for(buffer, ())
    buffer.seek(0)
    with torch.serialization.safe_globals(allowed):
        assert type(torch.load(buffer, weights_only=True)) is type(module)


def test_arch_by_name_and_by_factory(resnet, tmp_path, monkeypatch):
    path = tmp_path / "weights.pt"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    assert load_model(str(path), arch="torchvision:resnet18").arch == "torchvision:resnet18"
    torch.save(resnet.state_dict(), path)
    (tmp_path / "my_nets.py").write_text(
        "import torchvision\ndef make():\n"
        "    return torchvision.models.resnet18(weights=None, num_classes=10)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert same(load_model(str(path), arch="my_nets:make").module, resnet)
    with pytest.raises(UsageError, match="has no other"):
        load_model(str(path), arch="my_nets:other")
    with pytest.raises(LoadError, match="does not fit torchvision:resnet34"):
        load_model(str(path), arch="torchvision:resnet34")


def test_an_unknown_architecture_asks_for_arch(resnet, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(resnet.state_dict(), path)
    with pytest.raises(LoadError, match="architecture") as caught:
        load_model(str(path))
    assert "--arch" in caught.value.hint


@pytest.mark.parametrize("source", ["torchvision:resnet18", "timm:resnet18"])
def test_zoo_models_say_that_they_are_not_trained(source):
    loaded = load_model(source)
    assert loaded.kind == "zoo"
    assert "random" in loaded.notes[0]
    again = load_model(source)
    assert same(loaded.module, again.module)  # seeded


def test_zoo_name_with_a_typing_error():
    with pytest.raises(UsageError) as caught:
        load_model("torchvision:resnet5O")
    assert "resnet50" in caught.value.hint


@pytest.mark.parametrize("source", ["microsoft/resnet-50", "https://a.b/net.pt", "BAAI/bge-m1.5"])
def test_a_name_of_a_hub_gets_the_way_to_download_it(source):
    with pytest.raises(LoadError, match="does not exist") as caught:
        load_model(source)
    assert "hf download" in caught.value.hint


def test_a_bare_zoo_name_gets_the_full_name_as_a_hint():
    with pytest.raises(LoadError) as caught:
        load_model("resnet50")
    assert "torchvision:resnet50" in caught.value.hint


def test_an_odd_dtype_is_noted_and_a_model_without_numbers_refused(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3)).half(), path)
    assert "float16" in " ".join(load_model(str(path)).notes)
    with torch.device("meta"):
        torch.save(nn.Sequential(nn.Conv2d(3, 4, 3)), path)
    with pytest.raises(LoadError, match="meta device"):
        load_model(str(path))


@pytest.mark.parametrize(
    ("source", "shape", "origin"),
    [
        ("torchvision:resnet18", (1, 3, 224, 224), "torchvision:resnet18"),
        ("torchvision:inception_v3", (1, 3, 299, 299), "torchvision:inception_v3"),
        ("timm:mobilenetv3_small_050", (1, 3, 224, 224), "timm:mobilenetv3_small_050"),
    ],
)
def test_default_input_of_an_architecture(source, shape, origin):
    spec = resolve_inputs(load_model(source), None)
    assert (spec.tensors[0].shape, spec.origin, spec.names) == (shape, origin, ("input",))


@pytest.mark.parametrize(
    ("layer", "shape", "dtype"),
    [
        (nn.Conv1d(5, 4, 3), (1, 5, 1024), "float32"),
        (nn.Conv3d(2, 4, 3), (1, 2, 16, 112, 112), "float32"),
        (nn.Linear(7, 4), (1, 7), "float32"),
        (nn.Embedding(9, 4), (1, 16), "int64"),
    ],
)
def test_input_from_the_first_layer(layer, shape, dtype, tmp_path):
    torch.save(nn.Sequential(layer), tmp_path / "net.pt")
    spec = resolve_inputs(load_model(str(tmp_path / "net.pt")), None)
    assert (spec.tensors[0].shape, spec.tensors[0].dtype) == (shape, dtype)
    assert "first layer" in spec.origin
    (tensor,) = make_inputs(spec)
    assert tensor.shape == shape


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, image, mask):
        return self.linear(image) * mask


def test_named_inputs_are_put_in_order(tmp_path):
    torch.jit.save(torch.jit.script(Pair()), tmp_path / "pair.pt")
    loaded = load_model(str(tmp_path / "pair.pt"))
    spec = resolve_inputs(loaded, InputSpec.parse(["mask=1x4", "image=2x4"]))
    assert spec.names == ("image", "mask")
    assert spec.tensors[0].shape == (2, 4)
    with pytest.raises(UsageError, match="no input named") as caught:
        resolve_inputs(loaded, InputSpec.parse(["mark=1x4", "image=2x4"]))
    assert "image, mask" in caught.value.hint
    with pytest.raises(UsageError, match="takes 2 inputs"):
        resolve_inputs(loaded, InputSpec.parse(["1x4", "2x4", "3x4"]))


def test_architecture_whose_constructor_computes_is_recognised(tmp_path):
    net = torchvision.models.regnet_y_400mf(weights=None, num_classes=5)
    torch.save(net.state_dict(), tmp_path / "regnet_y_400mf.pth")
    assert load_model(str(tmp_path / "regnet_y_400mf.pth")).arch == "torchvision:regnet_y_400mf"


def test_a_folded_model_of_an_older_version_still_loads(tmp_path):
    """The pickle names the class by its module path in that version."""
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 1), Zero()), tmp_path / "new.pt")
    old = tmp_path / "old.pt"
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(old, "w") as archive:
        for name in new.namelist():
            content = new.read(name)
            renamed = content.replace(
                b"deployfold.folding.rewrite.rewrite", b"deployfold.fold.rewrite"
            )
            archive.writestr(name, renamed)
    assert b"deployfold.fold.rewrite" in old.read_bytes()
    loaded = load_model(str(old))
    assert isinstance(loaded.module[1], Zero)
