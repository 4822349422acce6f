"""Decides which inputs an ONNX is built for: by its graph, by --input, or by the profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from deployfold.config.inputs import InputSpec, TensorSpec
from deployfold.config.optimization_profiles import Dynamic, DynamicBatch, Shape
from deployfold.errors import UsageError, unknown_input
from deployfold.loading import LoadedModel
from deployfold.loading.onnx_module import OnnxModule
from deployfold.runtimes.inputs import StatedInput
from deployfold.runtimes.onnx_inputs import stated_inputs

_SINGLE = frozenset({"float16", "bfloat16", "float64"})
"""Types that are built as float32, as those of a PyTorch model are."""

Names = Mapping[str, Sequence[str]]
"""The name of each axis of each input; empty where the graph gives none."""


def resolve_onnx_inputs(
    model: LoadedModel, requested: InputSpec | None, dynamic: Dynamic = ()
) -> InputSpec:
    """The inputs to build for, in the order of the graph and under its names.

    A size that the graph leaves open comes from ``requested``, from the profiles, or from another
    axis of the same name; the first axis is 1 without any. Floats are float32.

    Raises:
        UsageError: an input is unknown, a size is not known, or the graph fixes another one.
    """
    assert isinstance(model.module, OnnxModule)
    path = model.module.path
    stated = stated_inputs(path)
    if requested is None and dynamic and not isinstance(dynamic[0], DynamicBatch):
        shapes = tuple(TensorSpec(one.opt, one.name or None) for one in dynamic[0])
        requested = InputSpec(shapes, origin="--shapes")
    given = _by_name(requested, stated, path.name)
    names = _axis_names(path)
    sizes: dict[str, int] = {}
    for name, shape in given.items():
        sizes |= {axis: size for axis, size in zip(names[name], shape, strict=False) if axis}
    tensors = tuple(
        TensorSpec(
            given[one.name] if one.name in given else _shape(one, names[one.name], sizes, path),
            one.name,
            "float32" if one.dtype in _SINGLE else one.dtype,
        )
        for one in stated
    )
    origin = path.name if requested is None else requested.origin
    spec = InputSpec(tensors, origin=origin).with_profiles(dynamic)
    _check_dynamic(spec, stated, path.name)
    return spec


def _by_name(
    requested: InputSpec | None, stated: Sequence[StatedInput], file: str
) -> dict[str, Shape]:
    """The shapes that the user gave."""
    tensors = () if requested is None else requested.tensors
    known = {one.name: one for one in stated}
    if len(tensors) > len(stated):
        raise UsageError(
            f"{file} takes {len(stated)} inputs, and {len(tensors)} shapes were given.",
            hint=f"Its inputs are: {', '.join(known)}.",
        )
    named = {one.name for one in tensors}
    free = iter([one.name for one in stated if one.name not in named])
    found: dict[str, Shape] = {}
    for tensor in tensors:
        name = tensor.name if tensor.name is not None else next(free)
        if name not in known:
            raise unknown_input(file, name, known)
        _check_shape(known[name], tensor.shape, file)
        found[name] = tensor.shape
    return found


def _check_shape(stated: StatedInput, shape: Shape, file: str) -> None:
    fits = len(shape) == len(stated.shape) and all(
        size in (None, given) for size, given in zip(stated.shape, shape, strict=True)
    )
    if not fits:
        raise UsageError(
            f"{file} takes {stated.name!r} as {stated}, not as {'x'.join(map(str, shape))}.",
            hint=_advice(stated),
        )


def _advice(stated: StatedInput) -> str:
    if None in stated.shape:
        return "? is any size."
    if not stated.shape:
        return "A scalar has no shape: leave this --input out, and give its value by --input-data."
    return "Leave this --input out, or export the model again for another shape."


def _shape(
    stated: StatedInput, names: Sequence[str], sizes: Mapping[str, int], path: Path
) -> Shape:
    found = []
    for axis, size in enumerate(stated.shape):
        size = size or sizes.get(names[axis] if axis < len(names) else "")
        if size is None and axis > 0:
            known = ["1" if one is None and index == 0 else str(one or "SIZE")
                     for index, one in enumerate(stated.shape)]  # fmt: skip
            raise UsageError(
                f"{path.name} takes any size along axis {axis} of {stated.name!r}"
                f"{f' ({names[axis]})' if names[axis] else ''}, and none was given.",
                hint=f"Give it with --input {stated.name}={'x'.join(known)}.",
            )
        found.append(size or 1)
    return tuple(found)


def _check_dynamic(spec: InputSpec, stated: Sequence[StatedInput], file: str) -> None:
    for one, axes in zip(stated, spec.dynamic_axes, strict=True):
        for axis, (low, high) in axes.items():
            if one.shape[axis] is not None:
                raise UsageError(
                    f"{file} fixes axis {axis} of {one.name!r} to {one.shape[axis]}, so it cannot "
                    f"serve sizes from {low} to {high} there.",
                    hint="Export the ONNX again with that axis dynamic.",
                )


def _axis_names(path: Path) -> Names:
    graph = onnx.load(str(path), load_external_data=False).graph
    return {
        value.name: [one.dim_param for one in value.type.tensor_type.shape.dim]
        for value in graph.input
    }
