"""Makes a model take raw pictures: ``--image-input``."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from deployfold.config.inputs import InputSpec, TensorSpec
from deployfold.config.optimization_profiles import InputShapes, Shape
from deployfold.config.real_data import PreprocessSpec
from deployfold.data.preprocess.resolve import resolve_preprocess
from deployfold.folding.frames import Frames, absorbed_note, scripted
from deployfold.loading import LoadedModel, make_inputs


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
        UsageError: the model takes no picture, or is an ONNX of an opset before 7.
    """
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
    wrapped.training = False  # a .pt2 program refuses eval()
    module: nn.Module = wrapped
    notes = steps.notes[1:]
    if model.kind == "onnx":
        from .onnx_frames import framed  # imports onnx

        module = framed(wrapped, taken)
    elif model.kind == "torchscript":
        module = scripted(wrapped, make_inputs(taken))
        notes += (absorbed_note(layout, [], wrapped.operations, [], None),)
    turned = slice(None, None, -1 if flip else 1)
    grey = steps.channels == "grey"
    return (
        replace(model, module=module, notes=(*model.notes, *notes)),
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
