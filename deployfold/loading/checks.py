"""The checks that every loaded model must pass before any other stage uses it."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from deployfold.errors import LoadError
from deployfold.util.tensors import is_finite

from .harmless_names import check_names
from .model import LoadedModel
from .placeholder import Placeholder, name_of
from .quantised_training import frozen, in_training

_QUANTISED = "Give the float model; --int8 quantises it."
_DIVERGED = "The training diverged, or the file is damaged: choose an earlier checkpoint."


@contextmanager
def as_module() -> Iterator[None]:
    """Turn the exceptions that a malformed module causes into one error.

    In a pickle, any object may stand in the place of a submodule, and a module may contain itself.

    Raises:
        LoadError: the module is malformed.
    """
    try:
        yield
    except (AttributeError, TypeError, RecursionError) as error:
        raise LoadError(f"The model is not a well-formed module: {error}.") from error


def checked(loaded: LoadedModel) -> LoadedModel:
    """Put a model in evaluation mode, and check its names and its tensors.

    Returns:
        The model, with notes on unusual dtypes.

    Raises:
        LoadError: a tensor is on the meta device, quantised, complex or not initialised; a tensor
            has NaN or a parameter has infinity; or a name would act as code.
    """
    module = loaded.module
    with as_module():
        if loaded.kind != "torchscript":  # TorchScript's compiler made the names
            check_names(module)
        if loaded.kind != "program":  # a program is in evaluation mode and refuses the call
            module.eval()
        tensors = dict((*module.named_parameters(), *module.named_buffers()))
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
    notes: tuple[str, ...] = ()
    for name, child in module.named_modules():
        _check_layer(name, child)
    _check_numbers(tensors)
    if in_training(module):
        module, notes = frozen(module)
    return replace(loaded, module=module, notes=(*loaded.notes, *dtype_notes(module), *notes))


def _check_layer(name: str, layer: nn.Module) -> None:
    """Refuse layers that are quantised: with packed weights, or torch's own with integers."""
    if ".quantized." in f"{type(layer).__module__}." and type(layer).__name__ != "FloatFunctional":
        raise LoadError(f"{name or 'The model'} is a quantised layer already.", hint=_QUANTISED)
    if isinstance(layer, (_ConvNd, nn.Linear)) and layer.__module__.startswith("torch.nn.modules."):
        for key, tensor in layer.named_parameters(recurse=False):
            if not tensor.is_floating_point():
                raise _stored_narrow(f"{name}.{key}".lstrip("."), tensor)


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise LoadError(f"{name} is a {type(tensor).__name__} and not a tensor.")
    if torch.nn.parameter.is_lazy(tensor):
        raise LoadError(f"{name} is not initialised.", hint="Run the model once and save it.")
    if tensor.is_meta:
        raise LoadError(
            f"{name} is on the meta device and holds no numbers.",
            hint="Load the weights before saving the model.",
        )
    if tensor.is_quantized:
        raise LoadError(f"{name} is quantised already.", hint=_QUANTISED)
    if tensor.layout is not torch.strided or tensor.is_nested:
        kind = "nested" if tensor.is_nested else "sparse"
        raise LoadError(f"{name} is a {kind} tensor.", hint="Save the model with dense ones.")
    if tensor.is_floating_point() and tensor.element_size() == 1:
        raise _stored_narrow(name, tensor)
    if tensor.is_complex():
        raise LoadError(f"{name} is complex, which neither ONNX nor TensorRT can hold.")


def check_state(state: Mapping[str, torch.Tensor], learned: Set[str]) -> None:
    """Refuse weights that cannot be copied into a float model with the same numbers.

    Args:
        state: the weights.
        learned: the names of float parameters; buffers may hold integers.

    Raises:
        LoadError: a tensor is quantised, sparse, complex or on the meta device, or a parameter is
            stored in integers, whose scale is unknown.
    """
    for name, tensor in state.items():
        _check_tensor(name, tensor)
        if name in learned and not tensor.is_floating_point():
            raise _stored_narrow(name, tensor)


def _stored_narrow(name: str, tensor: torch.Tensor) -> LoadError:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return LoadError(
        f"{name} is {dtype}, so it is quantised already, and its scale is not known.",
        hint=_QUANTISED,
    )


def _check_numbers(tensors: dict[str, torch.Tensor]) -> None:
    """Refuse NaN in any tensor, and infinity in parameters.

    Buffers may contain infinity: attention masks do.
    """
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
    if is_finite(tensor):
        return 0
    return int((~tensor.isfinite() if infinite else tensor.isnan()).sum())


def dtype_notes(module: nn.Module) -> list[str]:
    """A note on float types other than float32, and one on integers, for a loaded model."""
    dtypes = {parameter.dtype for parameter in module.parameters()} - {torch.float32}
    floats = {dtype for dtype in dtypes if dtype.is_floating_point}
    notes = [f"The model has {_names(floats)} parameters; they are kept."] if floats else []
    if integers := dtypes - floats:
        notes.append(
            f"The model has {_names(integers)} parameters, which its own code turns into numbers. "
            "ONNX files and engines may hold those as floats, and --int8 chooses scales of its own."
        )
    return notes


def _names(dtypes: Set[torch.dtype]) -> str:
    return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


_STRUCTURE = frozenset({"_modules", "_parameters", "_buffers"})
_HOOKS = re.compile(r"_(?:forward|backward|state_dict|load_state_dict)\w*_hooks?")


def missing_parts(module: Any) -> list[str]:
    """The globals of a module's class, submodules and hooks that were not loaded.

    Other attributes that were not loaded are not listed: any use of them raises.
    """
    found: dict[str, None] = {}
    seen: set[int] = set()
    pending: list[Any] = [module]
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if (name := name_of(one)) is not None:
            found[name] = None
        attributes = one.attributes() if isinstance(one, Placeholder) else _attributes(one)
        for key, value in attributes.items():
            if str(key) in _STRUCTURE or _HOOKS.fullmatch(str(key)):
                pending += value.values() if isinstance(value, dict) else ()
            elif isinstance(value, OrderedDict) and (name := name_of(value)) is not None:
                found[name] = None  # looks like a plain dictionary, so using it would not raise
    return list(found)


def _attributes(value: Any) -> dict[str, Any]:
    return vars(value) if isinstance(value, nn.Module) else {}


def safe_name(name: str) -> str:
    """``name`` reduced to letters, digits, dots, dashes and underscores, for file names."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:100].strip("._") or "model"
