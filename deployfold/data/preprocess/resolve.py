"""Decides every preprocessing step by flags, then the TOML file, then the architecture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deployfold.config.inputs import InputSpec
from deployfold.config.real_data import PREPROCESS_JSON, PreprocessSpec
from deployfold.data.samples import text_shape
from deployfold.errors import UsageError

from .recipes import Recipe, architecture_recipe, imagenet_recipe, pair
from .settings import check_flags, read_settings
from .shipped import NAMES as SHIPPED
from .shipped import shipped_recipe
from .steps import Preprocess, read_preprocess

_ARRAYS = "Use an .npy, .npz or .pt file, or package.module:function."


def resolve_preprocess(spec: PreprocessSpec, inputs: InputSpec, arch: str | None) -> Preprocess:
    """Decide every step from an image to ``inputs``.

    The crop always has the input's height and width. If a recipe or file has another crop, its
    resizing is scaled by the same factor.

    Args:
        spec: the steps given by flags, and the name of a TOML file, of a file that a model's
            directory ships, see :mod:`.shipped`, or of a build's ``preprocess.json``.
        inputs: the model's inputs.
        arch: the architecture. The configuration of a ``torchvision:NAME`` or ``timm:NAME`` sets
            the steps that neither flags nor file set; other architectures take ImageNet's.

    Raises:
        UsageError: the inputs are not one image, a value is bad, or a value contradicts the input.
    """
    check_flags(spec)
    path = Path(spec.source)
    if path.name == PREPROCESS_JSON:
        return _of_a_build(path, inputs)
    shipped = path.name in SHIPPED
    profile = PreprocessSpec() if spec.source == "auto" or shipped else read_settings(path)
    layout, depth, size = _image(inputs, spec.layout or profile.layout)
    own = shipped_recipe(path, size) if shipped else architecture_recipe(arch, size)
    recipe = own or imagenet_recipe(size)
    box = _box(spec, profile, size)
    channels = "grey" if depth == 1 else spec.channels or profile.channels or recipe.channels
    mean = _numbers("mean", spec.mean or profile.mean, recipe.mean, channels)
    std = _numbers("std", spec.std or profile.std, recipe.std, channels)
    result = Preprocess(
        resize=box or recipe.resize,
        fit="cover" if box else recipe.fit,
        crop=size,
        interpolation=spec.interpolation or profile.interpolation or recipe.interpolation,
        mean=mean,
        std=std,
        layout=layout,
        channels=channels,
        dtype="uint8" if inputs.tensors[0].dtype == "uint8" else "float32",
    )
    sentence = _sentence(result, _origin(spec, own))
    raw = result.dtype == "uint8"
    notes = (sentence, *(() if raw else _guesses(spec, profile, own, channels)))
    return replace(result, notes=notes)


def _of_a_build(path: Path, inputs: InputSpec) -> Preprocess:
    """The steps that a build wrote, which have to fit the inputs."""
    steps = read_preprocess(path)
    _, _, size = _image(inputs, steps.layout)
    if size != steps.crop:
        raise UsageError(
            f"{path} makes images of {text_shape(steps.crop)}, but the model takes "
            f"{text_shape(size)}.",
            hint="Give an array of inputs instead of images.",
        )
    return replace(steps, notes=(_sentence(steps, str(path)),))


def takes_pictures(inputs: InputSpec) -> bool:
    """Whether a folder of images can feed a model with these inputs."""
    try:
        _image(inputs, None)
    except UsageError:
        return False
    return True


def _image(inputs: InputSpec, wanted: str | None) -> tuple[str, int, tuple[int, int]]:
    """Layout, number of channels, and height and width of the only input."""
    if len(inputs.tensors) != 1:
        raise UsageError(
            f"A folder of images cannot feed a model with {len(inputs.tensors)} inputs.",
            hint=_ARRAYS,
        )
    tensor = inputs.tensors[0]
    if len(tensor.shape) != 4 or not tensor.dtype.startswith(("float", "uint8")):
        raise UsageError(
            f"A folder of images cannot feed an input of {text_shape(tensor.shape)} {tensor.dtype}:"
            " images make inputs of floats or uint8 with four axes.",
            hint=_ARRAYS,
        )
    _, first, second, third = tensor.shape
    forms = {"nchw": (first, (second, third)), "nhwc": (third, (first, second))}
    fitting = [layout for layout, (depth, _) in forms.items() if depth in (1, 3)]
    if wanted is not None and wanted not in fitting:
        raise UsageError(
            f"An input of {text_shape(tensor.shape)} is not {wanted.upper()} of 1 or 3 channels.",
            hint="Remove the layout: the shape determines it." if fitting else _ARRAYS,
        )
    if not fitting:
        raise UsageError(
            f"A folder of images cannot feed an input of {text_shape(tensor.shape)}: images have "
            "1 or 3 channels.",
            hint=_ARRAYS,
        )
    layout = wanted or fitting[0]
    return (layout, *forms[layout])


def _box(
    spec: PreprocessSpec, profile: PreprocessSpec, size: tuple[int, int]
) -> tuple[int, int] | None:
    """The box to resize to by flags or TOML file; ``None`` if neither sets one."""
    if spec.crop is not None and tuple(spec.crop) != size:
        raise UsageError(
            f"The crop is {text_shape(spec.crop)}, but the model takes {text_shape(size)}.",
            hint="Remove the crop, or build for that size with --input.",
        )
    shorter = min(size)
    if spec.resize is not None:
        resize: float = spec.resize
    elif profile.resize is None:
        return None
    else:
        resize = profile.resize * shorter / min(profile.crop or size)
    if round(resize) < shorter:
        raise UsageError(
            f"Images resized to {round(resize)} pixels do not fill the input of "
            f"{text_shape(size)}.",
            hint=f"Resize to {shorter} or more.",
        )
    return pair(round(resize * side / shorter) for side in size)


def _numbers(
    key: str, given: tuple[float, ...] | None, own: tuple[float, ...], channels: str
) -> tuple[float, ...]:
    """The mean or standard deviation of each channel, in the order of the input's channels."""
    depth = 1 if channels == "grey" else 3
    if given is not None:
        if len(given) not in (1, depth):
            raise UsageError(
                f"The {key} has {len(given)} numbers, but the input has {depth} "
                f"channel{'' if depth == 1 else 's'}."
            )
        return tuple(given) * (depth // len(given))
    if depth == 1:
        return (sum(own) / len(own),)
    own = own * 3 if len(own) == 1 else own
    return own[::-1] if channels == "bgr" else own


def _origin(spec: PreprocessSpec, own: Recipe | None) -> str:
    flags = [key for key, value in vars(spec).items() if key != "source" and value is not None]
    parts = [own.origin if own is not None else "ImageNet's defaults"]
    if spec.source not in ("auto", parts[0]):
        parts.insert(0, spec.source)
    if flags:
        parts.insert(0, f"the requested {', '.join(flags)}")
    return ", then ".join(parts)


def _sentence(steps: Preprocess, origin: str) -> str:
    height, width = steps.resize
    how = {
        "cover": f"to {height} pixels on the shorter side"
        if height == width
        else f"to cover {height}x{width}",
        "squash": f"to {height}x{width}",
        "pad": f"to fit into {height}x{width}",
    }[steps.fit]
    resized = (
        f"Images are resized {how} ({steps.interpolation}), cropped to {text_shape(steps.crop)}"
    )
    form = f"{steps.channels.upper()} {steps.layout.upper()}, according to {origin}."
    if steps.dtype == "uint8":
        return f"{resized} and given as uint8 {form}"
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (steps.mean, steps.std))
    return f"{resized} and normalised by mean {mean} and std {std} as {form}"


def _guesses(
    spec: PreprocessSpec, profile: PreprocessSpec, own: Recipe | None, channels: str
) -> list[str]:
    """Sentences on steps that were guessed."""
    notes = []
    means_given = (spec.mean or profile.mean) and (spec.std or profile.std)
    if own is None and not means_given:
        notes.append(
            "The architecture's own preprocessing is not known. If the model was trained with "
            "another preprocessing than ImageNet's, calibration is wrong: set --preprocess."
        )
    if channels == "grey" and not means_given:
        notes.append("The input has one channel, so the mean and std of the colours were averaged.")
    return notes
