"""Makes a model take raw pictures: ``--image-input``."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from deployfold.config.inputs import InputSpec, TensorSpec
from deployfold.config.optimization_profiles import InputShapes, Shape
from deployfold.config.real_data import PreprocessSpec
from deployfold.data.preprocess.resolve import resolve_preprocess
from deployfold.errors import UsageError
from deployfold.folding.frames import Frames
from deployfold.loading import LoadedModel


def with_image_input(
    model: LoadedModel, inputs: InputSpec, wanted: PreprocessSpec, layout: str
) -> tuple[LoadedModel, InputSpec, PreprocessSpec]:
    """The model behind its normalisation, with uint8 frames for its input.

    Args:
        inputs: the inputs of the model itself: one float picture.
        wanted: how an image becomes that input.
        layout: of the frames: ``nchw`` or ``nhwc``.

    Returns:
        The model; its input; how an image becomes a frame: resized and cropped, RGB.

    Raises:
        UsageError: the model takes no picture, or comes as a graph that cannot be wrapped.
    """
    if model.kind in ("torchscript", "program"):
        kind = "TorchScript" if model.kind == "torchscript" else "A .pt2 program"
        raise UsageError(
            f"{kind} has its input in the graph; --image-input changes PyTorch models and ONNX.",
            hint="Give the PyTorch model or its ONNX, or export it with the normalisation in its "
            "forward.",
        )
    steps = resolve_preprocess(wanted, inputs, model.arch)
    flip = steps.channels == "bgr"
    wrapped = Frames(
        model.module, steps.mean, steps.std, layout=layout, own_layout=steps.layout, flip=flip
    )
    order = _order(steps.layout, layout)
    (tensor,) = inputs.tensors
    frames = TensorSpec(_moved(tensor.shape, order), tensor.name, "uint8")
    profiles = tuple(
        tuple(
            InputShapes(one.name, *(_moved(shape, order) for shape in (one.min, one.opt, one.max)))
            for one in profile
        )
        for profile in inputs.profiles
    )
    taken = replace(inputs, tensors=(frames,), profiles=profiles)
    if model.kind == "onnx":
        from .onnx_frames import framed  # imports onnx

        module: nn.Module = framed(wrapped, taken)
    else:
        module = wrapped
    turned = slice(None, None, -1 if flip else 1)
    grey = steps.channels == "grey"
    return (
        replace(model, module=module.eval(), notes=(*model.notes, *steps.notes[1:])),
        taken,
        replace(
            wanted,
            layout=layout,  # type: ignore[arg-type]
            channels=None if grey else "rgb",
            mean=steps.mean[turned],
            std=steps.std[turned],
        ),
    )


def _order(before: str, after: str) -> tuple[int, ...]:
    if before == after:
        return (0, 1, 2, 3)
    return (0, 2, 3, 1) if after == "nhwc" else (0, 3, 1, 2)


def _moved(shape: Shape, order: tuple[int, ...]) -> Shape:
    return tuple(shape[axis] for axis in order)
