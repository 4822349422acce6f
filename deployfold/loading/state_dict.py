"""State dicts, however deep in a checkpoint and under whatever prefix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deployfold.errors import LoadError, first_few

_NESTS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
_NESTS_OF_AVERAGES = ("state_dict_ema", "model_ema", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_DEPTH = 4


def find_state_dict(checkpoint: Any) -> tuple[dict[str, Tensor], tuple[str, ...]] | None:
    """The state dict in a checkpoint, with notes on where it stood; ``None`` if there is none."""
    notes: list[str] = []
    for _ in range(_DEPTH):
        if not isinstance(checkpoint, Mapping):
            return None
        # torch's AveragedModel counts its updates beside the weights.
        own = {key: value for key, value in checkpoint.items() if key != "n_averaged"}
        if own and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in own.items()):
            return own, tuple(notes)
        name = next((nest for nest in (*_NESTS, *_NESTS_OF_AVERAGES) if nest in own), None)
        if name is None:
            return None
        averages = [nest for nest in _NESTS_OF_AVERAGES if nest in own and nest != name]
        notes.append(f"The weights are those under {name!r} in the file.")
        if averages:
            notes.append(f"Those under {averages[0]!r}, averaged in training, are not used.")
        checkpoint = own[name]
    return None


def find_module(checkpoint: Any) -> tuple[nn.Module, tuple[str, ...]] | None:
    """The module in a checkpoint, unwrapped from DataParallel and ``torch.compile``, with notes."""
    if isinstance(checkpoint, Mapping):
        nested = (checkpoint.get(name) for name in (*_NESTS, *_NESTS_OF_AVERAGES))
        checkpoint = next((item for item in nested if isinstance(item, nn.Module)), None)
    return unwrap(checkpoint) if isinstance(checkpoint, nn.Module) else None


def unwrap(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The module, itself and its parts out of their wrappers for training, with notes on them.

    Raises:
        RecursionError: a module is its own wrapper.
    """
    module, wrappers = _inside(module)
    notes = [f"The model was taken out of its {name} wrapper." for name in wrappers]
    parts: Counter[str] = Counter()
    for parent in module.modules():
        if vars(parent).pop("_compiled_call_impl", None) is not None:
            parts["torch.compile"] += 1
        for name, child in parent._modules.items():
            if isinstance(child, nn.Module):
                parent._modules[name], wrappers = _inside(child)
                parts.update(wrappers)
    if parts:
        counts = ", ".join(f"{count} {name}" for name, count in parts.items())
        notes.append(f"Wrappers inside the model were taken off: {counts}.")
    return module, tuple(notes)


def _inside(module: nn.Module) -> tuple[nn.Module, list[str]]:
    """What DataParallel or ``torch.compile`` wrapped, and the names of the wrappers."""
    names: list[str] = []
    seen = {module}
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = module.module if isinstance(module, wrappers) else module._modules.get("_orig_mod")
        if not isinstance(inner, nn.Module):
            return module, names
        names.append(type(module).__name__)
        module = inner
        if module in seen:
            raise RecursionError("it wraps itself")
        seen.add(module)


def unprefixed(state: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """The state dict, then the same without the prefixes that wrappers add, one after another."""
    yield state
    while True:
        prefix = next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None)
        if prefix is None:
            return
        state = {key.removeprefix(prefix): value for key, value in state.items()}
        yield state


def differences(module: nn.Module, state: Mapping[str, Tensor], arch: str) -> list[str]:
    """What does not fit, as parts of a sentence that name the first few keys; ``[]`` if all does.

    BatchNorm's batch counters do not count: they are of no use in evaluation mode.
    """
    own = {key: value for key, value in module.state_dict().items() if not _is_counter(key)}
    given = {key: value for key, value in state.items() if not _is_counter(key)}
    missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    shapes = [
        f"{key} is {_shape(given[key])} in the checkpoint and {_shape(own[key])} in {arch}"
        for key in sorted(own.keys() & given.keys())
        if own[key].shape != given[key].shape
    ]
    return [
        *(f"{key} is missing" for key in missing),
        *(f"{key} is unexpected" for key in extra),
        *shapes,
    ]


def summary(problems: tuple[str, ...], shown: int = 3) -> str:
    """The first of each kind of :func:`differences`, and how many more there are."""
    kinds = [
        [problem for problem in problems if problem.endswith("is missing")],
        [problem for problem in problems if problem.endswith("is unexpected")],
        [problem for problem in problems if not problem.endswith(("missing", "unexpected"))],
    ]
    return "; ".join(first_few(kind, shown) for kind in kinds if kind)


def fill(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load a fitting ``state`` into ``module``, which takes the state's dtype if there is one only.

    Raises:
        LoadError: a tensor is quantised.
    """
    quantised = next((key for key, tensor in state.items() if tensor.is_quantized), None)
    if quantised is not None:
        raise LoadError(
            f"{quantised} is quantised already.", hint="Give the float model's weights."
        )
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        module = module.to(dtypes.pop())
    own = module.state_dict()
    with torch.no_grad():
        module.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
    return module


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
