"""The preprocessing in a model's directory, as transformers and timm write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration_toys import picture
from PIL import Image

from deployfold.building.journal import Journal
from deployfold.building.load import load
from deployfold.config.inputs import InputSpec
from deployfold.config.make_spec import make_spec
from deployfold.config.real_data import PreprocessSpec
from deployfold.data.preprocess.resolve import resolve_preprocess
from deployfold.data.preprocess.shipped import input_shape, shipped_file
from deployfold.data.preprocess.steps import Preprocess
from deployfold.errors import UsageError

HALF = [0.5, 0.5, 0.5]
NORMALISED = {"do_normalize": True, "image_mean": HALF, "image_std": [0.25, 0.5, 1.0]}
SQUARE = {"height": 48, "width": 48}


def written(folder: Path, fields: Any, name: str = "preprocessor_config.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(fields))
    return path


def steps(path: Path, side: int = 48) -> Preprocess:
    inputs = InputSpec.parse([f"1x3x{side}x{side}"])
    return resolve_preprocess(PreprocessSpec(source=str(path)), inputs, None)


@pytest.mark.parametrize(
    ("fields", "resize", "fit"),
    [
        ({"size": SQUARE}, (48, 48), "squash"),  # ViT
        ({"size": 48}, (48, 48), "squash"),  # ViT's first files
        ({"size": 64, "do_center_crop": True, "crop_size": 48}, (64, 64), "cover"),  # CLIP's first
        (
            {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": SQUARE},
            (64, 64),
            "cover",
        ),
        (
            {"size": {"height": 64, "width": 64}, "do_center_crop": True, "crop_size": SQUARE},
            (64, 64),
            "squash",
        ),  # DeiT
        ({"size": {"shortest_edge": 48}, "crop_pct": 0.75}, (64, 64), "cover"),  # ConvNeXt
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.75}, (48, 48), "squash"),
        (
            {
                "size": {"shortest_edge": 48},
                "crop_pct": 0.75,
                "do_center_crop": True,
                "crop_size": SQUARE,
            },
            (64, 64),
            "cover",
        ),  # PoolFormer
        ({"do_resize": False, "size": SQUARE}, (48, 48), "cover"),
    ],
)
def test_every_kind_of_size(
    fields: dict[str, Any], resize: tuple[int, int], fit: str, tmp_path: Path
) -> None:
    found = steps(written(tmp_path, {**NORMALISED, **fields}))
    assert (found.resize, found.fit, found.crop) == (resize, fit, (48, 48))


def test_the_size_scales_with_the_input(tmp_path: Path) -> None:
    crop = {"do_center_crop": True, "crop_size": SQUARE}
    path = written(tmp_path, {**NORMALISED, **crop, "size": {"shortest_edge": 64}})
    assert steps(path, side=96).resize == (128, 128)
    assert input_shape(path) == (48, 48)


@pytest.mark.parametrize("flip", [False, True])
def test_the_numbers_are_those_of_the_formula(flip: bool, tmp_path: Path) -> None:
    """Rescale by the factor, take one away, normalise, and turn the channels round."""
    fields = {
        "size": SQUARE, "resample": 3, "rescale_factor": 1 / 127.5, "rescale_offset": True,
        "include_top": flip, "do_flip_channel_order": flip, **NORMALISED,
    }  # fmt: skip
    image = picture(1, (91, 60))
    found = steps(written(tmp_path, fields)).apply(image)
    pixels = np.asarray(image.resize((48, 48), Image.Resampling.BICUBIC), np.float64)
    std = np.array(NORMALISED["image_std"])
    expected = (pixels / 127.5 - 1 - 0.5) / (std**2 if flip else std)
    expected = expected[:, :, ::-1] if flip else expected
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-5)


def test_disabled_steps_are_skipped(tmp_path: Path) -> None:
    path = written(tmp_path, {"do_rescale": False, "image_mean": HALF, "size": SQUARE})
    image = picture(1, (48, 48))
    np.testing.assert_allclose(steps(path).apply(image).transpose(1, 2, 0), np.asarray(image))


@pytest.mark.parametrize(
    "fields",
    [{"image_mean": [0.5, 0.5]}, {"image_std": "narrow"}, {"size": {"height": "a"}, "crop_pct": 0},
     {"rescale_factor": 0}],
)  # fmt: skip
def test_a_bad_value_in_a_shipped_preprocessing_is_refused(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    if "crop_pct" in fields:
        fields["size"] = {"shortest_edge": 48}
    path = written(tmp_path, {**NORMALISED, "size": SQUARE, **fields})
    with pytest.raises(UsageError, match="holds a bad preprocessing"):
        steps(path)


def test_the_directory_of_a_model_brings_its_preprocessing(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    model = timm.create_model("resnet10t", num_classes=7)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    own = {"mean": [0.1, 0.2, 0.3], "std": HALF, "crop_pct": 0.5, "interpolation": "bilinear"}
    written(
        tmp_path,
        {"architecture": "resnet10t", "num_classes": 7, "pretrained_cfg": own},
        "config.json",
    )
    assert shipped_file(str(tmp_path)) == tmp_path / "config.json"
    written(tmp_path, {"tokenizer_class": "T"}, "preprocessor_config.json")
    assert shipped_file(str(tmp_path)) == tmp_path / "config.json"
    loaded = load(make_spec(str(tmp_path), {"input": ["1x3x48x48"]}), Journal())
    found = resolve_preprocess(loaded.preprocess, loaded.inputs, loaded.model.arch)
    assert (found.resize, found.mean) == ((96, 96), (0.1, 0.2, 0.3))
    assert len(found.notes) == 1, "nothing was guessed"
    given = make_spec(str(tmp_path), {"input": ["1x3x48x48"], "mean": "0.4"})
    assert load(given, Journal()).preprocess.mean == (0.4,)
    inside = {"image_processor": {**NORMALISED, "size": SQUARE}}
    (tmp_path / "config.json").unlink()
    assert shipped_file(str(tmp_path)) is None
    assert shipped_file(str(tmp_path / "model.safetensors")) is None
    assert input_shape(written(tmp_path, inside, "processor_config.json")) == (48, 48)
