"""Which inputs a model takes: as asked for, as its architecture says, or as a layer needs."""

from __future__ import annotations

import inspect
from dataclasses import replace

import torch
from torch import nn

from deployfold.errors import UsageError
from deployfold.spec import DynamicBatch, InputSpec, TensorSpec

from .arch import ZOOS, default_input_size
from .model import LoadedModel

_SPATIAL = {1: (1024,), 2: (224, 224), 3: (16, 112, 112)}
_TOKENS = 16
_GENERIC = frozenset({"x", "input", "inputs", "args"})


def resolve_inputs(
    loaded: LoadedModel, requested: InputSpec | None, dynamic_batch: DynamicBatch | None
) -> InputSpec:
    """The inputs to build for, in the order of the forward, with names.

    Args:
        requested: what ``--input`` gave, which wins.
        dynamic_batch: batch sizes to serve.

    Raises:
        UsageError: a name is not the forward's, there are too many inputs, or no shape is known.
    """
    names = _argument_names(loaded.module)
    spec = _in_order(requested, names) if requested else _default(loaded)
    if names is not None and len(spec.tensors) > len(names):
        raise UsageError(
            f"The model takes {len(names)} inputs ({', '.join(names)}), not {len(spec.tensors)}."
        )
    tensors = tuple(
        replace(tensor, name=tensor.name or _name(index, names, len(spec.tensors)))
        for index, tensor in enumerate(spec.tensors)
    )
    return replace(spec, tensors=tensors, dynamic_batch=dynamic_batch)


def make_inputs(
    spec: InputSpec,
    *,
    seed: int = 0,
    batch: int | None = None,
    float_dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, ...]:
    """Seeded inputs of the given shapes: standard-normal floats, integers of 0 and 1.

    Args:
        batch: the batch size to use instead of the spec's.
        float_dtype: dtype of float inputs instead of the spec's.
    """
    generator = torch.Generator().manual_seed(seed)
    spec = spec if batch is None else spec.with_batch(batch)
    tensors = []
    for tensor in spec.tensors:
        dtype: torch.dtype = getattr(torch, tensor.dtype)
        if dtype.is_floating_point:
            values = torch.randn(tensor.shape, generator=generator)
            tensors.append(values.to(float_dtype or dtype))
        else:
            values = torch.randint(0, 2, tensor.shape, generator=generator)
            tensors.append(values.to(dtype))
    return tuple(tensors)


def _argument_names(module: nn.Module) -> tuple[str, ...] | None:
    """The names of the forward's positional arguments; ``None`` if it takes any number."""
    if isinstance(module, torch.jit.ScriptModule):
        schema = module._c._get_method("forward").schema
        return tuple(argument.name for argument in schema.arguments if argument.name != "self")
    parameters = list(inspect.signature(module.forward).parameters.values())
    if any(item.kind is item.VAR_POSITIONAL for item in parameters):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(item.name for item in parameters if item.kind in positional)


def _name(index: int, names: tuple[str, ...] | None, count: int) -> str:
    if names is not None and index < len(names) and names[index] not in _GENERIC:
        return names[index]
    return "input" if count == 1 else f"input_{index}"


def _in_order(requested: InputSpec, names: tuple[str, ...] | None) -> InputSpec:
    """Named inputs at the places of those arguments, unnamed ones at the places left."""
    if names is None or not any(tensor.name for tensor in requested.tensors):
        return requested
    if len(requested.tensors) == 1 and requested.tensors[0].name not in names:
        return requested  # a name for the only input is a wish, not a reference
    unknown = [t.name for t in requested.tensors if t.name is not None and t.name not in names]
    if unknown:
        raise UsageError(
            f"The model has no input named {unknown[0]!r}.",
            hint=f"Its inputs are: {', '.join(names)}.",
        )
    placed = {tensor.name: tensor for tensor in requested.tensors if tensor.name is not None}
    unnamed = [tensor for tensor in requested.tensors if tensor.name is None]
    free = [name for name in names if name not in placed]
    placed |= dict(zip(free, unnamed, strict=False))
    return replace(requested, tensors=tuple(placed[name] for name in names if name in placed))


def _default(loaded: LoadedModel) -> InputSpec:
    dtype = _float_dtype(loaded.module)
    if loaded.shapes:
        tensors = tuple(TensorSpec(shape, dtype=dtype) for shape in loaded.shapes)
        return InputSpec(tensors, origin="the exported program")
    if loaded.arch is not None and loaded.arch.partition(":")[0] in ZOOS:
        size = default_input_size(loaded.arch)
        if size is not None:
            return InputSpec((TensorSpec((1, *size), dtype=dtype),), origin=loaded.arch)
    for name, module in loaded.module.named_modules():
        tensor = _needs(module)
        if tensor is not None:
            where = f"the first layer, {name}" if name else "the first layer"
            dtype = dtype if tensor.dtype == "float32" else tensor.dtype
            return InputSpec((replace(tensor, dtype=dtype),), origin=where)
    for name, weight in loaded.module.named_parameters():
        if weight.dim() == 4:  # TorchScript and graph modules have weights and no layer classes
            shape = (1, weight.shape[1], *_SPATIAL[2])
            return InputSpec((TensorSpec(shape, dtype=dtype),), origin=f"the first weight, {name}")
    raise UsageError(
        "The input shape cannot be told from this model.",
        hint="Give it with --input, for example --input 1x3x224x224.",
    )


def _needs(module: nn.Module) -> TensorSpec | None:
    """The input that a layer would take if it came first."""
    if isinstance(module, nn.modules.conv._ConvNd):
        rank = len(module.kernel_size)
        return TensorSpec((1, module.in_channels, *_SPATIAL[rank]))
    if isinstance(module, nn.Linear):
        return TensorSpec((1, module.in_features))
    if isinstance(module, nn.Embedding):
        return TensorSpec((1, _TOKENS), dtype="int64")
    return None


def _float_dtype(module: nn.Module) -> str:
    tensor = next((item for item in module.parameters() if item.is_floating_point()), None)
    return "float32" if tensor is None else str(tensor.dtype).removeprefix("torch.")
