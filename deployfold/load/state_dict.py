"""State dicts, however deep in a checkpoint and under whatever prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from deployfold.errors import LoadError

_NESTS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
_NESTS_OF_AVERAGES = ("state_dict_ema", "model_ema", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def find_state_dict(checkpoint: Any) -> dict[str, Tensor] | None:
    """The state dict in a checkpoint, without the prefixes that wrappers add; ``None`` if none."""
    seen = 0
    while isinstance(checkpoint, Mapping) and seen < 4:
        if _is_state_dict(checkpoint):
            return _without_prefixes(dict(checkpoint))
        nests = [name for name in (*_NESTS, *_NESTS_OF_AVERAGES) if name in checkpoint]
        if not nests:
            return None
        checkpoint, seen = checkpoint[nests[0]], seen + 1
        if isinstance(checkpoint, nn.Module):
            return None
    return None


def find_module(checkpoint: Any) -> nn.Module | None:
    """The module in a checkpoint, unwrapped from DataParallel and ``torch.compile``."""
    if isinstance(checkpoint, Mapping):
        checkpoint = next(
            (checkpoint[name] for name in _NESTS if isinstance(checkpoint.get(name), nn.Module)),
            None,
        )
    if not isinstance(checkpoint, nn.Module):
        return None
    module: nn.Module = checkpoint
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def fill(module: nn.Module, state: Mapping[str, Tensor], arch: str) -> nn.Module:
    """Load ``state`` into ``module``, whose every key and shape must agree with it.

    Raises:
        LoadError: keys are missing or left over, or shapes differ; it names the first of them.
    """
    own = module.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - state.keys() - counters)
    extra = sorted(state.keys() - own.keys())
    shapes = [
        f"{key} is {_shape(state[key])} in the checkpoint and {_shape(own[key])} in {arch}"
        for key in sorted(own.keys() & state.keys())
        if own[key].shape != state[key].shape
    ]
    problems = [
        *([f"{len(missing)} keys are missing ({', '.join(missing[:3])})"] if missing else []),
        *([f"{len(extra)} keys are left over ({', '.join(extra[:3])})"] if extra else []),
        *shapes[:3],
    ]
    if problems:
        raise LoadError(
            f"The checkpoint does not fit {arch}: {'; '.join(problems)}.",
            hint="Name the architecture it was trained with, for example "
            "--arch torchvision:resnet50 or --arch package.module:factory.",
        )
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        module = module.to(dtypes.pop())
    module.load_state_dict(dict(state), strict=False)
    return module


def _is_state_dict(checkpoint: Mapping[Any, Any]) -> bool:
    return bool(checkpoint) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in checkpoint.items()
    )


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while True:
        prefix = next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None)
        if prefix is None:
            return state
        state = {key.removeprefix(prefix): value for key, value in state.items()}


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
