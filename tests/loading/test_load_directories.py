"""Directories that Hugging Face's libraries write, and models that the user's code makes."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from deployfold.errors import LoadError, UsageError
from deployfold.loading import load_model

timm = pytest.importorskip("timm")

NO_SUCH = json.dumps({"architectures": ["NoSuch"]})


def hub_layout(folder: Path, *, name: str = "model.safetensors") -> nn.Module:
    model = timm.create_model("resnet10t", num_classes=7).eval()
    if name.endswith(".bin"):
        torch.save(model.state_dict(), folder / name)
    else:
        save_file(model.state_dict(), folder / name)
    config = {"architecture": "resnet10t", "num_classes": 7, "pretrained_cfg": {}}
    (folder / "config.json").write_text(json.dumps(config))
    return model


@pytest.mark.parametrize("name", ["model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_directory_in_timms_layout(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "my_net"
    folder.mkdir()
    model = hub_layout(folder, name=name)
    loaded = load_model(str(folder))
    assert (loaded.arch, loaded.name) == ("timm:resnet10t", "my_net")
    assert loaded.bytes == (folder / name).stat().st_size
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(loaded.module(x), model(x), atol=1e-5)
    assert load_model(str(folder / name), arch="timm:resnet10t").name == "my_net"


def test_the_arguments_of_timms_layout_are_numbers_and_no_paths(tmp_path: Path) -> None:
    model = timm.create_model("resnet10t", in_chans=1, num_classes=7)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "resnet10t", "num_classes": 7, "model_args": {"in_chans": 1}}
    config["model_args"]["checkpoint_path"] = str(tmp_path / "not.pt")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_model(str(tmp_path)).module.conv1[0].in_channels == 1
    with pytest.raises(LoadError, match="not known") as caught:
        load_model(str(tmp_path / "model.safetensors"))
    assert "Give the folder" in str(caught.value.hint)


def test_a_directory_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3
    )
    model = transformers.ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "hf")
    loaded = load_model(str(tmp_path / "hf"))
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(loaded.module(x).logits, model(x).logits, atol=1e-5)


def test_keys_that_transformers_renames_are_loaded_by_it(tmp_path: Path) -> None:
    """save_pretrained writes the names of the first version of the class, not today's."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=16,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "vit")
    loaded = load_model(str(tmp_path / "vit"))
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(loaded.module(x).logits, model(x).logits, atol=1e-5)
    weights = load_file(tmp_path / "vit" / "model.safetensors")
    save_file(dict(list(weights.items())[1:]), tmp_path / "vit" / "model.safetensors")
    with pytest.raises(LoadError, match="does not fit"):
        load_model(str(tmp_path / "vit"))


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "cannot be read"), ("[]", "architecture"), (NO_SUCH, "transformers")],
)
def test_a_directory_with_another_configuration_is_refused(
    content: str, words: str, tmp_path: Path
) -> None:
    hub_layout(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises((LoadError, UsageError), match=words):
        load_model(str(tmp_path))


def test_a_directory_without_weights_lists_its_checkpoints(tmp_path: Path) -> None:
    for depth, words in enumerate(("has no checkpoint", "run/weights/best.pt", "step_3.pt")):
        with pytest.raises(LoadError, match="is a directory") as caught:
            load_model(str(tmp_path))
        assert words in str(caught.value.hint)
        (tmp_path / "run" / "weights").mkdir(parents=True, exist_ok=True)
        (tmp_path / ("run/weights/best.pt", "step_3.pt", "")[depth]).touch()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (".metadata", "dcp_to_torch"),
        ("zero_to_fp32.py", "python zero_to_fp32.py"),
        ("adapter_config.json", "merge_and_unload"),
    ],
)
def test_a_directory_of_parts_names_the_program_that_gathers_them(
    name: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(LoadError) as caught:
        load_model(str(tmp_path))
    assert words in str(caught.value.hint)


def test_a_tar_archive_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "weights.ckpt").write_bytes(b"1")
    with tarfile.open(tmp_path / "net.nemo", "w") as archive:
        archive.add(tmp_path / "weights.ckpt", "weights.ckpt")
    with pytest.raises(LoadError, match="is a tar archive"):
        load_model(str(tmp_path / "net.nemo"))


def factory(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))


INSTANCE = nn.Sequential(nn.Conv2d(3, 4, 1))


def leaves() -> nn.Module:
    raise SystemExit(0)


def test_a_model_object_is_a_source_and_code_that_exits_is_an_error() -> None:
    loaded = load_model(f"{__name__}:INSTANCE", factories=True).module
    assert torch.equal(loaded[0].weight, INSTANCE[0].weight)
    assert loaded is not INSTANCE
    with pytest.raises(LoadError, match="failed: SystemExit"):
        load_model(f"{__name__}:leaves", factories=True)
    with pytest.raises(UsageError, match="cannot be imported") as caught:
        load_model("nets.py:make", factories=True)
    assert "nets:make" in str(caught.value.hint)


def test_the_users_code_is_a_source_and_takes_arguments(tmp_path: Path) -> None:
    loaded = load_model(f"{__name__}:factory", arch_options={"width": 6}, factories=True)
    assert loaded.module[0].out_channels == 6
    assert (loaded.kind, loaded.name) == ("factory", "factory")
    torch.save(factory(8).state_dict(), tmp_path / "w.pt")
    filled = load_model(
        str(tmp_path / "w.pt"), arch=f"{__name__}:factory", arch_options={"width": 8}
    )
    assert filled.module[0].out_channels == 8
    with pytest.raises(LoadError, match=r"Building .* failed") as caught:
        load_model(f"{__name__}:factory", arch_options={"height": 6}, factories=True)
    assert "It takes width" in str(caught.value.hint)
    with pytest.raises(UsageError, match="has no nothing"):
        load_model(f"{__name__}:nothing", factories=True)
    with pytest.raises(UsageError, match="--arch has no effect"):
        load_model(f"{__name__}:factory", arch="torchvision:resnet18", factories=True)
    with pytest.raises(LoadError, match="does not exist"):
        load_model(f"{__name__}:factory")
