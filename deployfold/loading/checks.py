"""What is looked at in every loaded model before anything else sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from deployfold.errors import LoadError

from .model import LoadedModel
from .names import check_names

_QUANTISED = "Give the float model; --int8 quantises it."
_DIVERGED = "The training diverged, or the file is damaged: choose an earlier checkpoint."


@contextmanager
def as_module() -> Iterator[None]:
    """Around whatever takes a loaded module apart: a pickle may hold anything in its place, in that
    of its parts, or the module within itself.

    Raises:
        LoadError: it does.
    """
    try:
        yield
    except (AttributeError, TypeError, RecursionError) as error:
        raise LoadError(f"The model is not put together as a module is: {error}.") from error


def checked(loaded: LoadedModel) -> LoadedModel:
    """In evaluation mode, with numbers in every tensor; oddities become notes.

    Raises:
        LoadError: a tensor is on the meta device, quantised, complex or not initialised, holds NaN,
            or is a parameter and infinite; or a name would act as code.
    """
    module = loaded.module
    with as_module():
        if loaded.kind != "torchscript":  # whose names its own compiler made
            check_names(module)
        if loaded.kind != "program":  # is in evaluation mode, and refuses to be put there
            module.eval()
        tensors = dict((*module.named_parameters(), *module.named_buffers()))
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
    for name, child in module.named_modules():
        _check_layer(name, child)
    _check_numbers(tensors)
    return replace(loaded, module=module, notes=(*loaded.notes, *_notes(module)))


def _check_layer(name: str, layer: nn.Module) -> None:
    """Packed weights are no tensors, and would pass for a layer without parameters."""
    if ".quantized." in f"{type(layer).__module__}.":
        raise LoadError(f"{name or 'The model'} is a quantised layer already.", hint=_QUANTISED)


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise LoadError(f"{name} is a {type(tensor).__name__} and no tensor.")
    if torch.nn.parameter.is_lazy(tensor):
        raise LoadError(f"{name} is not initialised.", hint="Run the model once and save it.")
    if tensor.is_meta:
        raise LoadError(f"{name} holds no numbers: it is on the meta device.")
    if tensor.is_quantized:
        raise LoadError(f"{name} is quantised already.", hint=_QUANTISED)
    if tensor.is_complex():
        raise LoadError(f"{name} is complex, which neither ONNX nor TensorRT can hold.")


def _check_numbers(tensors: dict[str, torch.Tensor]) -> None:
    """Refuse what cannot be a trained model. A buffer may be infinite: attention masks are."""
    bad = {
        name: count
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
        and (count := _not_numbers(tensor, infinite=isinstance(tensor, nn.Parameter)))
    }
    if bad:
        name, count = next(iter(bad.items()))
        more = f", and so do {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        kind = "NaN or infinity" if isinstance(tensors[name], nn.Parameter) else "NaN"
        values = f"{count} of {tensors[name].numel()} values"
        raise LoadError(f"{name} holds {kind} in {values}{more}.", hint=_DIVERGED)


def _not_numbers(tensor: torch.Tensor, *, infinite: bool) -> int:
    return int((~tensor.isfinite() if infinite else tensor.isnan()).sum())


def _notes(module: nn.Module) -> list[str]:
    dtypes = {p.dtype for p in module.parameters() if p.is_floating_point()} - {torch.float32}
    if not dtypes:
        return []
    names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    return [f"The model has {names} parameters; they are kept."]
