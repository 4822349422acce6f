from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
from calibration_toys import picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision import models

from deployfold.config.inputs import InputSpec
from deployfold.config.real_data import PreprocessSpec
from deployfold.data.preprocess.resolve import resolve_preprocess
from deployfold.data.preprocess.settings import read_settings, settings_of
from deployfold.data.preprocess.steps import write_preprocess
from deployfold.data.samples import Unreadable
from deployfold.errors import UsageError
from deployfold.util.toml import parse_toml

SIZES = [(640, 427), (300, 901), (224, 224), (57, 99), (1001, 1000)]


def shape(text: str) -> InputSpec:
    return InputSpec.parse([text])


def apply(
    image: Image.Image, inputs: InputSpec, arch: str | None = None, **options: object
) -> np.ndarray:
    spec = PreprocessSpec(**options)  # type: ignore[arg-type]
    return resolve_preprocess(spec, inputs, arch).apply(image)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "name", ["resnet50", "mobilenet_v3_small", "inception_v3", "vit_b_16", "maxvit_t", "vgg11"]
)
def test_the_numbers_are_torchvisions(name: str, size: tuple[int, int]) -> None:
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    image = picture(1, size)
    expected = transforms(image).numpy()
    side = expected.shape[-1]
    actual = apply(image, shape(f"1x3x{side}x{side}"), f"torchvision:{name}")
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    ("name", "input_size"),
    [
        ("mobilenetv3_small_050", (224, 224)),
        ("mobilenetv3_small_050", (160, 256)),  # not its own size, and not square
        ("efficientnet_b3", (288, 288)),  # crop of 0.875, bicubic
        ("convnextv2_huge", (224, 224)),  # squashed
        ("vit_base_patch16_sapiens2", (256, 192)),  # squashed, bilinear
        ("deepseek_vit_412m", (126, 126)),  # padded
    ],
)
def test_the_numbers_are_timms(
    name: str, input_size: tuple[int, int], size: tuple[int, int]
) -> None:
    pretrained = timm.get_pretrained_cfg(name)
    if pretrained is None:
        pytest.skip(f"this timm has no {name}")
    config = resolve_data_config(pretrained_cfg=pretrained.to_dict())
    config["input_size"] = (3, *input_size)
    image = picture(2, size)
    expected = create_transform(**config)(image).numpy()
    actual = apply(image, shape("1x3x{}x{}".format(*input_size)), f"timm:{name}")
    np.testing.assert_allclose(actual, expected, atol=1e-6, rtol=0)


def test_the_input_wins_over_the_crop_and_scales_the_resize() -> None:
    steps = resolve_preprocess(PreprocessSpec(), shape("1x3x96x96"), "torchvision:mobilenet_v2")
    assert (steps.resize, steps.crop) == ((99, 99), (96, 96))  # 232 of 224
    steps = resolve_preprocess(PreprocessSpec(), shape("1x3x96x192"), "torchvision:alexnet")
    assert (steps.resize, steps.crop) == ((110, 219), (96, 192))  # 256 of 224


def test_nhwc_and_bgr() -> None:
    image = picture(3)
    rgb = apply(image, shape("1x3x32x32"))
    assert rgb.shape == (3, 32, 32)
    np.testing.assert_array_equal(apply(image, shape("1x32x32x3")), rgb.transpose(1, 2, 0))
    # The architecture's numbers go with their colours …
    np.testing.assert_array_equal(apply(image, shape("1x3x32x32"), channels="bgr"), rgb[::-1])
    # … and those asked for are in the order of the input.
    plain = apply(image, shape("1x3x32x32"), mean=(0.0,), std=(1.0,))
    bgr = apply(image, shape("1x3x32x32"), channels="bgr", mean=(0.1, 0.2, 0.3), std=(1, 2, 4))
    for channel, (mean, std) in enumerate([(0.1, 1), (0.2, 2), (0.3, 4)]):
        np.testing.assert_allclose(bgr[channel], (plain[2 - channel] - mean) / std, atol=1e-6)


def test_an_ambiguous_layout_follows_the_option() -> None:
    image = picture(3, (3, 3))
    nchw = apply(image, shape("1x3x3x3"), resize=3, layout="nchw")
    nhwc = apply(image, shape("1x3x3x3"), resize=3, layout="nhwc")
    np.testing.assert_array_equal(nhwc, nchw.transpose(1, 2, 0))
    assert not np.array_equal(nhwc, nchw)


def test_one_channel_takes_grey_images_and_averages() -> None:
    steps = resolve_preprocess(PreprocessSpec(), shape("1x1x28x28"), None)
    assert steps.mode == "L"
    assert steps.mean == pytest.approx((0.449,))
    values = steps.apply(Image.new("L", (28, 28), 255))
    assert values.shape == (1, 28, 28)
    assert values == pytest.approx((1 - 0.449) / 0.226)
    assert any("averaged" in note for note in steps.notes)


def test_detection_models_normalise_themselves() -> None:
    image = picture(4)
    arch = "torchvision:ssdlite320_mobilenet_v3_large"
    values = apply(image, shape("1x3x64x64"), arch)
    assert values.min() >= 0
    assert 0.5 < values.max() <= 1


def test_notes_say_what_is_done_and_what_is_guessed() -> None:
    known = resolve_preprocess(PreprocessSpec(), shape("1x3x224x224"), "torchvision:resnet50")
    assert known.notes == (
        "Images are resized to 232 pixels on the shorter side (bilinear), cropped to 224x224 and "
        "normalised by mean 0.485 0.456 0.406 and std 0.229 0.224 0.225 as RGB NCHW, "
        "according to torchvision's weights of resnet50.",
    )
    for arch in (None, "package.module:factory", "torchvision:no_such", "timm:no_such"):
        guess = resolve_preprocess(PreprocessSpec(), shape("1x3x224x224"), arch)
        assert guess.resize == (256, 256)
        assert "is not known" in guess.notes[1]
    given = PreprocessSpec(mean=(0.5,), std=(0.5,))
    steps = resolve_preprocess(given, shape("1x3x224x224"), None)
    assert len(steps.notes) == 1
    assert "the requested mean, std" in steps.notes[0]


def test_flags_go_before_the_profile_and_the_profile_before_the_architecture(
    tmp_path: Path,
) -> None:
    profile = tmp_path / "pre.toml"
    profile.write_text(
        'resize = 200\nmean = 0.5\nstd = 0.5\nchannels = "BGR"\ninterpolation = "nearest"\n'
    )
    spec = PreprocessSpec(source=str(profile), resize=180, std=(0.25,))
    steps = resolve_preprocess(spec, shape("1x3x160x160"), "torchvision:resnet50")
    assert steps.resize == (180, 180)
    assert (steps.mean, steps.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert (steps.channels, steps.interpolation, steps.layout) == ("bgr", "nearest", "nchw")


def test_the_profiles_crop_scales_with_the_input(tmp_path: Path) -> None:
    profile = tmp_path / "pre.toml"
    profile.write_text("resize = 300\ncrop = [200, 200]\n")
    spec = PreprocessSpec(source=str(profile))
    assert resolve_preprocess(spec, shape("1x3x100x100"), None).resize == (150, 150)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ("1x3x32x32", {"crop": (30, 30)}, "The crop is 30x30, but the model takes 32x32."),
        ("1x3x32x32", {"resize": 20}, "Images resized to 20 pixels do not fill"),
        ("1x3x32x32", {"resize": 0}, "'resize' must be a number of pixels from 1"),
        ("1x3x32x32", {"std": (0.0,)}, "'std' must be positive numbers"),
        ("1x3x32x32", {"mean": (float("nan"),)}, "'mean' must be finite numbers"),
        (
            "1x3x32x32",
            {"mean": (0.5, 0.5)},
            "The mean has 2 numbers, but the input has 3 channels.",
        ),
        ("1x3x32x32", {"layout": "nhwc"}, "An input of 1x3x32x32 is not NHWC"),
        ("1x4x32x32", {}, "images have 1 or 3 channels"),
        ("1x16:int64", {}, "cannot feed an input of 1x16 int64"),
        ("1x3x32x32:int32", {}, "cannot feed an input of 1x3x32x32 int32"),
        ("1x3x8x32x32", {}, "cannot feed an input of 1x3x8x32x32 float32"),
        (
            "1x3x32x32",
            {"source": "/nowhere/pre.toml"},
            "not a readable preprocessing file",
        ),
    ],
)
def test_invalid_preprocessing_is_refused(
    inputs: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_preprocess(PreprocessSpec(**options), shape(inputs), None)  # type: ignore[arg-type]
    assert message in caught.value.message


def test_two_inputs_are_no_image() -> None:
    with pytest.raises(UsageError, match="with 2 inputs"):
        resolve_preprocess(PreprocessSpec(), InputSpec.parse(["a=1x3x8x8", "b=1x3x8x8"]), None)


def test_an_image_too_thin_to_resize_is_refused() -> None:
    steps = resolve_preprocess(PreprocessSpec(), shape("1x3x224x224"), None)
    with pytest.raises(Unreadable, match="20000x1 pixels"):
        steps.apply(Image.new("RGB", (20000, 1)))


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("resize = 256\nsize = 3", 2, "unknown key 'size'"),
        ("\n\ncrop = [1, 2, 3]", 3, "'crop' must be [height, width]"),
        ("resize = true", 1, "'resize' must be a number of pixels"),
        ("resize = 2.5", 1, "'resize' must be a number of pixels"),
        ("mean = []", 1, "'mean' must be finite numbers"),
        ("mean = [nan]", 1, "not [nan]"),
        ("# std\nmean = 0\nstd = [0.1, -1]", 3, "'std' must be positive"),
        ('layout = "hwc"', 1, "'layout' must be \"nchw\" or \"nhwc\", not 'hwc'"),
        ("channels = 3", 1, "'channels' must be"),
        ('source = "auto"', 1, "unknown key 'source'"),
        ("resize = 1\n[mean]\nx = 1", 2, "'mean' must be finite numbers"),
    ],
)
def test_a_profile_names_the_key_and_the_line(text: str, line: int, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings_of(parse_toml(text), text, "pre.toml")
    assert caught.value.message.startswith(f"pre.toml, line {line}: ")
    assert words in caught.value.message


def test_a_key_that_is_not_found_again_has_no_line() -> None:
    with pytest.raises(UsageError, match=r"^pre.toml: 'resize' must be"):
        settings_of({"resize": 0}, '"\\u0072esize" = 0', "pre.toml")


def test_a_profile_of_invalid_toml(tmp_path: Path) -> None:
    path = tmp_path / "pre.toml"
    for content, reason in ((b"resize = 1\nmean = =\n", "line 2"), (b"\xff\xfe", "utf-8")):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=f"not a readable preprocessing file: .*{reason}"):
            read_settings(path)


SIDES = st.integers(1, 16384)
NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4)


@given(
    resize=st.none() | SIDES,
    crop=st.none() | SIDES | st.tuples(SIDES, SIDES),
    mean=st.none() | NUMBERS,
    std=st.none() | st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=4),
    layout=st.sampled_from([None, "nchw", "nhwc"]),
)
def test_a_profile_reads_back(
    resize: int | None,
    crop: int | tuple[int, int] | None,
    mean: list[float] | None,
    std: list[float] | None,
    layout: str | None,
) -> None:
    values = {"resize": resize, "crop": crop, "mean": mean, "std": std, "layout": layout}
    lines = [
        f"{key} = {list(value) if isinstance(value, tuple) else value!r}".replace("'", '"')
        for key, value in values.items()
        if value is not None
    ]
    text = "\n".join(lines)
    spec = settings_of(parse_toml(text), text, "pre.toml")
    assert (spec.resize, spec.layout) == (resize, layout)
    assert spec.crop == ((crop, crop) if isinstance(crop, int) else crop)
    assert spec.mean == (None if mean is None else tuple(mean))
    assert spec.std == (None if std is None else tuple(std))


@given(st.text() | st.from_regex(r"(?s)(resize|crop|mean|std)( = |\.).{0,30}", fullmatch=True))
def test_any_text_is_a_profile_or_an_error_that_names_the_file(text: str) -> None:
    try:
        spec = settings_of(parse_toml(text), text, "pre.toml")
    except ValueError:
        return  # read_toml reports it
    except UsageError as error:
        message = error.message
    else:
        message = f"pre.toml gives {spec}"
    assert message.startswith("pre.toml")


def test_an_input_of_uint8_takes_pixels_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    for inputs, turned in (("1x8x8x3:uint8", (0, 1, 2)), ("1x3x8x8:uint8", (2, 0, 1))):
        steps = resolve_preprocess(PreprocessSpec(resize=8), shape(inputs), None)
        values = steps.apply(Image.fromarray(pixels))
        assert values.dtype == np.uint8
        np.testing.assert_array_equal(values, pixels.transpose(turned))
        assert "given as uint8 RGB" in steps.notes[0]


def test_the_preprocessing_of_a_build_is_taken_as_it_is(tmp_path: Path) -> None:
    spec = PreprocessSpec(resize=40, mean=(0.5, 0.4, 0.3), channels="bgr")
    steps = resolve_preprocess(spec, shape("1x3x32x24"), None)
    path = write_preprocess(steps, tmp_path)
    found = resolve_preprocess(PreprocessSpec(str(path)), shape("1x3x32x24"), None)
    assert replace(found, notes=()) == replace(steps, notes=())
    assert found.notes[0].endswith(f"according to {path}.")
    with pytest.raises(UsageError, match="makes images of 32x24, but the model takes 24x24"):
        resolve_preprocess(PreprocessSpec(str(path)), shape("1x3x24x24"), None)
    path.write_text("{}")
    with pytest.raises(UsageError, match="The preprocessing lacks 'resize'"):
        resolve_preprocess(PreprocessSpec(str(path)), shape("1x3x32x24"), None)
