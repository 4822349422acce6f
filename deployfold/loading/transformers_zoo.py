"""Architectures of Hugging Face's transformers, built from a configuration without weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from deployfold.errors import UsageError
from deployfold.util.quiet import quiet

PACKAGE = "transformers"


def builder(name: str) -> Callable[..., nn.Module]:
    """The function that builds a model of the class ``name`` from a configuration.

    The function takes ``config``, a directory with ``config.json``. Code in that directory never
    runs.

    Raises:
        UsageError: transformers is not installed, or has no class of that name.
    """
    package, kind = _class(name)

    def build(config: str | None = None, **options: Any) -> nn.Module:
        if config is None:
            raise UsageError(
                f"{PACKAGE}:{name} needs a configuration.",
                hint="Give the directory that save_pretrained wrote, with its config.json.",
            )
        found = package.AutoConfig.from_pretrained(
            config, local_files_only=True, trust_remote_code=False, **options
        )
        model: nn.Module = kind(found)
        return model

    return build


def pretrained(name: str, folder: Path) -> nn.Module | None:
    """The model in ``folder``, loaded by transformers, which knows the names of older versions.

    Only ``.safetensors`` are read, and code in the folder never runs.

    Returns:
        The model, or ``None`` if transformers does not find a weight for every tensor.
    """
    _, kind = _class(name)
    try:
        with quiet():
            model, info = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception:  # the caller has the error of the first attempt
        return None
    lacking = [*info["missing_keys"], *info["mismatched_keys"], *info.get("error_msgs", ())]
    found: nn.Module = model
    return None if lacking else found


def picture_shape(module: nn.Module) -> tuple[int, int, int, int] | None:
    """The shape (1, channels, height, width) of the picture that a model's configuration names.

    Configurations of vision models have ``image_size``, one number or height and width, and
    ``num_channels``.
    """
    config = getattr(module, "config", None)
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", 3)
    sizes = (size, size) if isinstance(size, int) else size
    if not hasattr(config, "model_type") or not isinstance(sizes, (list, tuple)):
        return None
    numbers = (channels, *sizes)
    if len(numbers) != 3 or not all(isinstance(one, int) and one > 0 for one in numbers):
        return None
    return 1, numbers[0], numbers[1], numbers[2]


def _class(name: str) -> tuple[Any, Any]:
    """The package, and the class of that name in it."""
    try:
        package: Any = importlib.import_module(PACKAGE)
    except ImportError as error:
        raise UsageError(f"{PACKAGE} is not installed.", hint=f"pip install {PACKAGE}") from error
    kind = getattr(package, name, None)
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise UsageError(
            f"{PACKAGE} has no model {name!r}.",
            hint="config.json names the class under architectures; newer versions have more.",
        )
    return package, kind
