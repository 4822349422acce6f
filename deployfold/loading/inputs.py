"""Decides a model's inputs by --input, by its architecture, or by its first layer."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace

import torch
from torch import nn

from deployfold.config.inputs import InputSpec, TensorSpec
from deployfold.config.optimization_profiles import Dynamic, DynamicBatch
from deployfold.errors import UsageError, unknown_input

from . import transformers_zoo, zoo
from .arguments import Adapted
from .formats.torchscript import first_weight
from .model import LoadedModel

_SPATIAL = {1: (1024,), 2: (224, 224), 3: (16, 112, 112)}
_TOKENS = 16
_GENERIC = frozenset({"x", "input", "inputs", "args"})
"""Argument names without meaning. A single input with such a name is called ``input``."""


@dataclass(frozen=True)
class _Forward:
    """The positional arguments of a forward.

    Attributes:
        names: the names, in order.
        required: the number of arguments without a default.
        open: whether the forward also takes ``*args``.
        keywords: the names of arguments without a default that are given by keyword only.
    """

    names: tuple[str, ...]
    required: int
    open: bool = False
    keywords: tuple[str, ...] = ()


def resolve_inputs(
    loaded: LoadedModel, requested: InputSpec | None, dynamic: Dynamic = ()
) -> InputSpec:
    """Decide the inputs to build for, in the order of the forward, with names.

    Float inputs of a model in half or double precision get the model's dtype.

    Args:
        loaded: the model.
        requested: the inputs of ``--input``, which override every default.
        dynamic: the optimization profiles. If the shapes lie outside all of them, the opt shapes of
            the first profile replace them.

    Raises:
        UsageError: the forward has no input of that name, there are too many or too few inputs, no
            shape is known, or a ``.pt2`` program was exported for other shapes.
    """
    forward = forward_of(loaded.module)
    if requested is None and dynamic and not isinstance(dynamic[0], DynamicBatch):
        tensors = tuple(TensorSpec(one.opt, one.name or None) for one in dynamic[0])
        requested = InputSpec(tensors, origin="--shapes")
    spec = _in_order(requested, forward) if requested else _default(loaded)
    _check_count(spec, forward)
    dtype = _float_dtype(loaded.module)
    tensors = tuple(
        replace(
            tensor,
            name=tensor.name or _name(index, forward, len(spec.tensors)),
            dtype=dtype if tensor.dtype == "float32" else tensor.dtype,
        )
        for index, tensor in enumerate(spec.tensors)
    )
    spec = _within(replace(spec, tensors=tensors).with_profiles(dynamic))
    if loaded.kind == "program":
        _check_program(loaded.module, spec)
    return spec


def _within(spec: InputSpec) -> InputSpec:
    """The same inputs, in shapes that lie within one of the profiles."""
    fits = any(
        all(one.contains(tensor.shape) for one, tensor in zip(profile, spec.tensors, strict=True))
        for profile in spec.profiles
    )
    if fits or not spec.profiles:
        return spec
    first = zip(spec.tensors, spec.profiles[0], strict=True)
    return replace(
        spec,
        tensors=tuple(replace(tensor, shape=one.opt) for tensor, one in first),
        origin=f"{spec.origin}, at the opt shapes of the first optimization profile",
    )


def make_inputs(spec: InputSpec, *, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Make seeded inputs: standard-normal floats, uint8 of 0..255, other integers of 0 and 1.

    Other integers are usually indices or masks, for which 0 and 1 are valid.

    Args:
        spec: the inputs' shapes and dtypes.
        seed: seed of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for tensor in spec.tensors:
        dtype: torch.dtype = getattr(torch, tensor.dtype)
        if dtype.is_floating_point:
            values = torch.randn(tensor.shape, generator=generator)
            tensors.append(values.to(dtype))
        else:
            high = 256 if dtype == torch.uint8 else 2
            tensors.append(torch.randint(0, high, tensor.shape, generator=generator).to(dtype))
    return tuple(tensors)


def forward_of(module: nn.Module) -> _Forward:
    """The positional arguments of a module's forward."""
    if isinstance(module, torch.jit.ScriptModule):
        arguments = module._c._get_method("forward").schema.arguments[1:]  # without self
        required = sum(not argument.has_default_value() for argument in arguments)
        # Tracing appends a number to a name, such as input.1.
        return _Forward(tuple(item.name.partition(".")[0] for item in arguments), required)
    if isinstance(module, Adapted) and module.names is not None:
        return _Forward(tuple(module.names), len(module.names))
    parameters = list(inspect.signature(module.forward).parameters.values())
    is_open = any(item.kind is item.VAR_POSITIONAL for item in parameters)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [item for item in parameters if item.kind in kinds]
    required = sum(item.default is item.empty for item in positional)
    keywords = tuple(
        item.name
        for item in parameters
        if item.kind is item.KEYWORD_ONLY and item.default is item.empty
    )
    return _Forward(tuple(item.name for item in positional), required, is_open, keywords)


def _name(index: int, forward: _Forward, count: int) -> str:
    name = forward.names[index] if index < len(forward.names) else ""
    if count == 1:
        return "input" if not name or name in _GENERIC else name
    return name or f"input_{index}"


def _in_order(requested: InputSpec, forward: _Forward) -> InputSpec:
    """The inputs in the order of the forward; unnamed ones take the remaining arguments."""
    given = [tensor.name for tensor in requested.tensors if tensor.name is not None]
    names = forward.names
    if not given or (forward.open and not set(given) & set(names)):
        return requested
    if forward.open:  # other names are those of *args
        names = (*names, *(name for name in given if name not in names))
    if len(requested.tensors) == 1 and len(names) == 1:
        return requested  # a single input may have any name
    if set(given) & set(forward.keywords):
        return requested  # others are missing: _check_count refuses them
    unknown = [name for name in given if name not in names]
    if unknown:
        raise unknown_input(
            "The model", unknown[0], (*names, *forward.keywords),
            " An item of a list or dictionary is NAME.0 or NAME.KEY.",
        )  # fmt: skip
    if len(requested.tensors) > len(names):
        return requested  # too many: _check_count refuses them
    placed = {tensor.name: tensor for tensor in requested.tensors if tensor.name is not None}
    unnamed = [tensor for tensor in requested.tensors if tensor.name is None]
    free = [name for name in names if name not in placed]
    placed |= dict(zip(free, unnamed, strict=False))
    skipped = [name for name in names[: len(placed)] if name not in placed]
    if skipped:
        raise UsageError(
            f"The input {skipped[0]!r} has no shape, but a later input has one.",
            hint=f"Add --input {skipped[0]}=SHAPE.",
        )
    return replace(requested, tensors=tuple(placed[name] for name in names if name in placed))


def _check_count(spec: InputSpec, forward: _Forward) -> None:
    given, names = len(spec.tensors), forward.names
    enough = forward.required <= given and (given <= len(names) or forward.open)
    if enough and not forward.keywords:
        return
    names = (*names, *forward.keywords)
    if given == len(names):
        raise UsageError(
            f"The forward takes {', '.join(forward.keywords)} by keyword, and the shapes from "
            f"{spec.origin} have no names.",
            hint="Give one --input NAME=SHAPE for each.",
        )
    wanted = str(len(names))
    if forward.required + len(forward.keywords) < len(names):
        wanted = f"{forward.required + len(forward.keywords)} to {len(names)}"
    elif given > 1 and len(names) == 1:
        raise UsageError(
            f"The model takes one input, {names[0]}, but the shapes of {given} are known, from "
            f"{spec.origin}.",
            hint=f"If {names[0]} is a list, write --input {names[0]}.0=SHAPE --input "
            f"{names[0]}.1=SHAPE; if it is a dictionary, --input {names[0]}.KEY=SHAPE for each.",
        )
    raise UsageError(
        f"The model takes {wanted} inputs ({', '.join(names)}), but the shapes of {given} are "
        f"known, from {spec.origin}.",
        hint="Give one --input NAME=SHAPE for each, or --input-data with an array for each.",
    )


def _check_program(module: nn.Module, spec: InputSpec) -> None:
    """Refuse shapes other than those for which a ``.pt2`` program was exported."""
    graph = getattr(module, "graph", None)
    nodes = [] if graph is None else [node for node in graph.nodes if node.op == "placeholder"]
    values = [node.meta.get("val") for node in nodes]
    for tensor, value, axes in zip(spec.tensors, values, spec.dynamic_axes, strict=False):
        if not isinstance(value, torch.Tensor):
            continue
        fixed = tuple(size if isinstance(size, int) else None for size in value.shape)
        agrees = len(fixed) == len(tensor.shape) and all(
            size in (None, given) for size, given in zip(fixed, tensor.shape, strict=True)
        )
        text = "x".join("any" if size is None else str(size) for size in fixed)
        hint = "Export it again with torch.export.export(..., dynamic_shapes=...)."
        if not agrees:
            raise UsageError(f"The program was exported for {text}, not for {tensor}.", hint=hint)
        if any(fixed[axis] is not None for axis in axes):
            raise UsageError(f"The program was exported for the fixed shape {text}.", hint=hint)


def _default(loaded: LoadedModel) -> InputSpec:
    module = loaded.module
    if loaded.shapes:
        tensors = tuple(TensorSpec(shape) for shape in loaded.shapes)
        return InputSpec(tensors, origin="the exported program")
    if loaded.arch is not None and (size := zoo.input_size(loaded.arch)) is not None:
        return InputSpec((TensorSpec((1, *size)),), origin=loaded.arch)
    config = getattr(module, "pretrained_cfg", None)  # an attribute of timm's models
    if isinstance(config, dict) and config.get("input_size"):
        return InputSpec((TensorSpec((1, *config["input_size"])),), origin="timm's pretrained_cfg")
    picture = transformers_zoo.picture_shape(module)
    if picture is not None:
        return InputSpec((TensorSpec(picture),), origin="the model's configuration")
    if isinstance(module, torch.jit.ScriptModule):
        found = first_weight(module)
        if found is not None:
            return InputSpec((_for_weight(*found),), origin="the first layer of the graph")
    for name, layer in module.named_modules():
        tensor = _for_layer(layer)
        if tensor is not None:
            where = f"the first layer, {name}" if name else "the first layer"
            return InputSpec((tensor,), origin=where)
    for name, weight in module.named_parameters():
        if weight.dim() == 4:  # graph modules have weights but no layer objects
            origin = f"the first weight, {name}"
            return InputSpec((_for_weight("convolution", weight.shape),), origin=origin)
    raise UsageError(
        "The shape of the model's input is not known.",
        hint="Add it, for example --input 1x3x224x224.",
    )


def _for_layer(layer: nn.Module) -> TensorSpec | None:
    """The input of a model whose first layer is ``layer``; ``None`` if it shows no shape."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        return TensorSpec((1, layer.in_channels, *_SPATIAL[len(layer.kernel_size)]))
    if isinstance(layer, nn.Linear):
        return TensorSpec((1, layer.in_features))
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        return TensorSpec((1, _TOKENS), dtype="int64")
    return None


def _for_weight(operator: str, shape: tuple[int, ...]) -> TensorSpec:
    """The input of a layer with this weight; a convolution is assumed to have one group."""
    if operator == "embedding":
        return TensorSpec((1, _TOKENS), dtype="int64")
    return TensorSpec((1, shape[1], *_SPATIAL.get(len(shape) - 2, ())))


def _float_dtype(module: nn.Module) -> str:
    tensor = next((item for item in module.parameters() if item.is_floating_point()), None)
    return "float32" if tensor is None else str(tensor.dtype).removeprefix("torch.")
