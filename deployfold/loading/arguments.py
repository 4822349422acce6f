"""Adapts models whose forward does not take one tensor per positional argument.

Every later stage calls a model with tensors in order, and expects tensors in plain containers. This
module wraps models that take keywords, lists or dictionaries, or that return dataclasses.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from deployfold.config.flag_values import is_zoo_name
from deployfold.config.inputs import InputSpec
from deployfold.errors import UsageError, unknown_input

from .model import LoadedModel

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_NESTED = re.compile(r"\.(?!\d+$)")
"""A dotted name, other than the one that tracing makes, such as ``input.1``."""
_SEQUENCE = re.compile(r"\b(list|tuple|Sequence)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """The assignment of inputs to arguments, with inputs given by their index.

    Attributes:
        positional: for each positional argument an input, or a list or dictionary of inputs.
        keywords: the same for each keyword argument, by name.
    """

    positional: tuple[Any, ...]
    keywords: Mapping[str, Any]


class Adapted(nn.Module):
    """A model that takes tensors in order and returns plain containers.

    Attributes:
        model: the wrapped model.
        positional, keywords: see :class:`Layout`; ``positional`` is ``None`` if the model takes
            one positional argument per tensor.
        constants: keyword arguments with one value each.
        names: of the inputs; ``None`` if the layout has none.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout | None,
        constants: Mapping[str, Any] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.constants, self.names = dict(constants or {}), names
        self.model = model
        self.positional = None if layout is None else list(layout.positional)
        self.keywords = {} if layout is None else dict(layout.keywords)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Call the model; the output is a tensor, or tuples, lists and dicts of tensors."""
        if self.positional is None:
            return plain(self.model(*inputs))
        arguments = [_filled(place, inputs) for place in self.positional]
        keywords = {key: _filled(place, inputs) for key, place in self.keywords.items()}
        return plain(self.model(*arguments, **keywords, **self.constants))


def plain(output: Any) -> Any:
    """``output`` with dataclasses, named tuples and other mappings replaced by dictionaries.

    Fields that are ``None`` or text are left out, and text in a sequence becomes ``None``: no graph
    returns text. Containers that torch's pytree knows stay.
    """
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, str):
        return None
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        fields = {one.name: getattr(output, one.name) for one in dataclasses.fields(output)}
        return plain(fields)
    if isinstance(output, Mapping):
        kept = {str(key): value for key, value in output.items() if value is not None}
        return {key: plain(value) for key, value in kept.items() if not isinstance(value, str)}
    if _is_named_tuple(output):
        return plain(output._asdict())
    if type(output) in (tuple, list):
        return type(output)(plain(item) for item in output)
    return output


def with_arguments(
    loaded: LoadedModel, requested: InputSpec | None, fixed: Mapping[str, Any] | None = None
) -> LoadedModel:
    """Adapt a model to the names of the requested inputs, if its forward needs that.

    1. An input named like a keyword argument, or with any name where the forward has ``**kwargs``,
       is passed by keyword. So is an argument that follows an omitted argument with a default.
    2. Inputs named ``NAME.KEY``, for an argument NAME, are passed in a dictionary, or in a list if
       the keys are numbers. Further dots nest: ``NAME.KEY.0`` is in a list in a dictionary.
    3. Inputs with other names are passed in a dictionary, if the forward has one argument only and
       it is not annotated as a tensor, a list or a tuple.
    4. Several inputs with other names or none are passed in a list, if the forward has one argument
       only and it is annotated as a list or tuple.
    5. An argument in ``fixed`` has the value there, and all others are passed by keyword.

    Raises:
        UsageError: the keys of a list are not 0, 1, 2 and so on; or an argument of ``fixed`` is
            unknown, or the model is compiled.
    """
    if fixed:
        return _with_fixed(loaded, requested, fixed)
    if requested is None or (loaded.compiled or loaded.in_onnx):
        return loaded
    layout = _layout(loaded.module, [tensor.name for tensor in requested.tensors])
    if layout is None:
        return loaded
    note = "An adapter passes the inputs to the model by the names that --input gives them."
    return replace(
        loaded, module=Adapted(loaded.module, layout).eval(), notes=(*loaded.notes, note)
    )


def _with_fixed(
    loaded: LoadedModel, requested: InputSpec | None, fixed: Mapping[str, Any]
) -> LoadedModel:
    if loaded.compiled:
        raise UsageError(
            f"--fix {next(iter(fixed))} has no effect: the arguments of a compiled model cannot be "
            "fixed.",
            hint="Give the PyTorch model or an ONNX, or the value by --input-data.",
        )
    parameters = inspect.signature(loaded.module.forward).parameters
    named = {key: one for key, one in parameters.items() if one.kind in _NAMED}
    anything = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    unknown = [name for name in fixed if name not in named]
    if unknown and not anything:
        raise unknown_input("The model", unknown[0], named)
    free = {key: one.default is one.empty for key, one in named.items() if key not in fixed}
    given = [one.name for one in requested.tensors] if requested else []
    unnamed = iter([key for key in free if key not in given])
    names = [name or next(unnamed, "") for name in given]
    names += [key for key, required in free.items() if required and key not in names]
    layout = Layout((), {name: index for index, name in enumerate(names)})
    return replace(
        loaded,
        module=Adapted(loaded.module, layout, fixed, tuple(names)).eval(),
        notes=(*loaded.notes, fixed_note(fixed)),
    )


def fixed_note(fixed: Mapping[str, Any]) -> str:
    """The note on inputs that ``--fix`` replaced by values."""
    text = "; ".join(f"{name} is fixed at {value!r}" for name, value in fixed.items())
    return f"{text}: the model has no such input any more."


def with_plain_outputs(loaded: LoadedModel, inputs: tuple[torch.Tensor, ...]) -> LoadedModel:
    """Adapt a model that returns dataclasses, named tuples or mappings to what files can hold.

    The model runs once on ``inputs``, except one of torchvision or timm: those return plain
    containers. If that run fails, the model stays as it is, and a later stage reports the failure.
    """
    module = loaded.module
    if (loaded.compiled or loaded.in_onnx) or isinstance(module, Adapted):
        return loaded
    if is_zoo_name(loaded.arch or ""):
        return loaded
    try:
        with torch.no_grad():
            output = module(*inputs)
        leaves = pytree.tree_leaves(output, is_leaf=_is_named_tuple)
    except Exception:  # any code may run in a forward
        return loaded
    if not any(
        isinstance(one, (Mapping, str)) or dataclasses.is_dataclass(one) or _is_named_tuple(one)
        for one in leaves
    ):
        return loaded
    notes = loaded.notes
    if any(isinstance(one, str) for one in pytree.tree_leaves(output)):
        notes += ("The text among the model's outputs is left out: a graph returns tensors.",)
    return replace(loaded, module=Adapted(module, None).eval(), notes=notes)


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _filled(place: Any, inputs: tuple[torch.Tensor, ...]) -> Any:
    if isinstance(place, dict):
        return {key: _filled(part, inputs) for key, part in place.items()}
    if isinstance(place, list):
        return [_filled(part, inputs) for part in place]
    return inputs[place]


def _layout(module: nn.Module, given: list[str | None]) -> Layout | None:
    parameters = list(inspect.signature(module.forward).parameters.values())
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [one for one in parameters if one.kind in kinds]
    names = [one.name for one in positional]
    keywords = {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}
    any_position = any(one.kind is one.VAR_POSITIONAL for one in parameters)
    any_keyword = any(one.kind is one.VAR_KEYWORD for one in parameters)
    named = [name for name in given if name is not None]
    if not named:
        if len(names) == 1 and len(given) > 1 and _SEQUENCE.search(str(positional[0].annotation)):
            return Layout((list(range(len(given))),), {})
        return None
    places = {name: index for index, name in enumerate(given) if name is not None}
    grouped = {
        name for name in named if "." in name and name.partition(".")[0] in {*names, *keywords}
    }
    others = [name for name in named if name not in names and name not in grouped]
    foreign = [name for name in others if name not in keywords]
    if foreign and not any_keyword:
        alone = len(names) == 1 and not any_position
        several = len(given) > 1 or _NESTED.search(foreign[0])
        if len(foreign) == len(given) and several and alone and not _is_tensor(positional[0]):
            listed = _SEQUENCE.search(str(positional[0].annotation))
            return Layout((list(places.values()) if listed else _nested(places),), {})
        return None
    if None in given and (others or grouped):
        return None  # resolve_inputs reports the missing names
    values = _nested(places)
    leading = [name for index, name in enumerate(names) if set(names[: index + 1]) <= set(values)]
    rest = {name: value for name, value in values.items() if name not in leading}
    if not rest and not grouped:
        return None
    by_name = [*positional, *(one for one in parameters if one.kind is one.KEYWORD_ONLY)]
    if any(one.default is one.empty and one.name not in values for one in by_name):
        return None
    return Layout(tuple(values[name] for name in leading), rest)


def _is_tensor(parameter: inspect.Parameter) -> bool:
    return str(parameter.annotation).strip("'\"").endswith(("Tensor", "Tensor'>"))


def _nested(places: Mapping[str, int]) -> dict[str, Any]:
    """Inputs by dotted names in nested dictionaries, or in lists where the keys are numbers."""
    found: dict[str, Any] = {}
    for name, index in places.items():
        *owners, key = name.split(".")
        level: Any = found
        for owner in owners:
            level = level.setdefault(owner, {}) if isinstance(level, dict) else None
        if not isinstance(level, dict) or key in level:
            raise UsageError(
                f"The input {name!r} and another are given, one of them inside of the other.",
                hint="An input is a tensor, or has items such as NAME.KEY or NAME.0, and not both.",
            )
        level[key] = index
    return {key: _as_list(key, value) for key, value in found.items()}


def _as_list(name: str, value: Any) -> Any:
    """A dictionary with the keys 0, 1, 2 and so on as a list, and so are those in it."""
    if not isinstance(value, dict):
        return value
    items = {key: _as_list(f"{name}.{key}", item) for key, item in value.items()}
    if not all(key.isdigit() for key in items):
        return items
    if sorted(items, key=int) != [str(index) for index in range(len(items))]:
        raise UsageError(
            f"The list {name!r} has the items {', '.join(items)}.",
            hint=f"Number them from 0: --input {name}.0=… --input {name}.1=….",
        )
    return [items[str(index)] for index in range(len(items))]
