"""Architectures by name: ``torchvision:NAME``, ``timm:NAME``, ``package.module:factory``."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deployfold.errors import LoadError, UsageError

ZOOS = ("torchvision", "timm")


def is_zoo_name(source: str) -> bool:
    """Whether ``source`` names a model of a zoo and no file."""
    return source.partition(":")[0] in ZOOS and ":" in source


def create(arch: str, *, num_classes: int | None = None) -> nn.Module:
    """The architecture, with the seeded initialisation it comes with.

    Raises:
        UsageError: it is unknown, or its package is not installed.
        LoadError: building it fails.
    """
    package, _, name = arch.partition(":")
    if not name:
        raise UsageError(
            f"{arch!r} is no architecture.",
            hint="Write it as torchvision:NAME, timm:NAME or package.module:factory.",
        )
    builder = _zoo_builder(package, name) if package in ZOOS else _factory(package, name)
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = builder(**options)
    except Exception as error:  # any code may run in a factory
        raise LoadError(f"Building {arch} failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise LoadError(f"{arch} returned {type(module).__name__}, which is no nn.Module.")
    return module


def recognise(path: Path, state: Mapping[str, Tensor]) -> tuple[str, nn.Module] | None:
    """The architecture whose name is in the file name and whose keys and shapes are the state's.

    Another number of classes is allowed.
    """
    for arch in candidates(path.name):
        for num_classes in dict.fromkeys((None, _classes(state))):
            try:
                with torch.device("meta"):
                    module = create(arch, num_classes=num_classes)
            except (LoadError, UsageError):
                continue
            if _fits(module, state):
                return arch, create(arch, num_classes=num_classes)
    return None


def candidates(filename: str) -> list[str]:
    """Zoo names that occur in a file name, longest first, torchvision before timm."""
    words = re.sub(r"[^a-z0-9]+", "_", filename.lower())
    found: list[tuple[int, int, str]] = []
    for order, zoo in enumerate(ZOOS):
        for name in _names(zoo):
            plain = re.sub(r"[^a-z0-9]+", "_", name.lower())
            match = re.search(rf"(?<![a-z0-9]){re.escape(plain)}(?![a-z0-9])", words)
            if match or words.replace("_", "").startswith(plain.replace("_", "")):
                found.append((-len(plain), order, f"{zoo}:{name}"))
    return [arch for _, _, arch in sorted(found)[:8]]


def default_input_size(arch: str) -> tuple[int, ...] | None:
    """The shape ``(channels, …)`` that the architecture was made for, if its package says."""
    package, _, name = arch.partition(":")
    if package == "timm":
        import timm

        config = timm.get_pretrained_cfg(name)
        return None if config is None else tuple(config.input_size)
    if package == "torchvision":
        return _torchvision_size(name)
    return None


def _torchvision_size(name: str) -> tuple[int, ...] | None:
    import torchvision

    module = torchvision.models.get_model_builder(name).__module__
    if ".video" in module:
        return (3, 16, 112, 112)
    try:
        weights = torchvision.models.get_model_weights(name)
        transforms = next(iter(weights)).transforms()
    except (ValueError, StopIteration):
        return None
    crop = getattr(transforms, "crop_size", None) or getattr(transforms, "resize_size", None)
    return None if not crop else (3, crop[0], crop[-1])


def pretrained(arch: str) -> tuple[nn.Module, str]:
    """A zoo model, with its trained weights if they are on this machine; and which of the two.

    Nothing is downloaded: a build must not depend on the network.
    """
    package, _, name = arch.partition(":")
    module = create(arch)
    if package == "torchvision":
        state = _cached_torchvision_weights(name)
        if state is not None:
            module.load_state_dict(state)
            return module, f"{arch} with torchvision's trained weights from the local cache."
    return module, f"{arch} with a seeded random initialisation: no trained weights were loaded."


def _cached_torchvision_weights(name: str) -> dict[str, Tensor] | None:
    import torchvision

    try:
        url = torchvision.models.get_model_weights(name).DEFAULT.url
    except (ValueError, AttributeError):
        return None
    path = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)  # noqa: PTH119 - a URL
    if not path.is_file():
        return None
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _names(zoo: str) -> list[str]:
    try:
        package = importlib.import_module(zoo)
    except ImportError:
        return []
    models = package.models if zoo == "torchvision" else package
    names: list[str] = models.list_models()
    return names


def _zoo_builder(package: str, name: str) -> Any:
    try:
        zoo = importlib.import_module(package)
    except ImportError as error:
        raise UsageError(
            f"{package} is not installed.", hint="pip install 'deployfold[zoo]'"
        ) from error
    names = _names(package)
    base = name.partition(".")[0]  # timm: NAME.TAG
    if name not in names and base not in names:
        near = difflib.get_close_matches(name, names, n=3)
        raise UsageError(
            f"{package} has no model {name!r}.",
            hint=f"Did you mean {' or '.join(near)}?"
            if near
            else f"See {package}'s list of models.",
        )
    if package == "timm":
        return lambda **options: zoo.create_model(name, pretrained=False, **options)
    return lambda **options: _torchvision_model(zoo, name, options)


def _torchvision_model(zoo: Any, name: str, options: dict[str, Any]) -> Any:
    try:
        return zoo.models.get_model(name, weights=None, weights_backbone=None, **options)
    except TypeError:  # a classifier, which has no backbone of its own
        return zoo.models.get_model(name, weights=None, **_without_noise(name, options))


def _without_noise(name: str, options: dict[str, Any]) -> dict[str, Any]:
    # These two warn about a slow initialisation unless told to do it.
    return {"init_weights": True, **options} if name in {"googlenet", "inception_v3"} else options


def _factory(package: str, name: str) -> Any:
    with _working_directory_importable():
        try:
            factory = getattr(importlib.import_module(package), name)
        except ImportError as error:
            raise UsageError(
                f"{package} cannot be imported: {error}.",
                hint="--arch package.module:factory is looked up as Python does; "
                "the working directory counts.",
            ) from error
        except AttributeError as error:
            raise UsageError(f"{package} has no {name}.") from error
    if not callable(factory):
        raise UsageError(f"{package}:{name} cannot be called.")
    return factory


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _classes(state: Mapping[str, Tensor]) -> int | None:
    """The number of classes: the last matrix with a bias has as many rows."""
    matrices = [
        key.removesuffix(".weight")
        for key, tensor in state.items()
        if key.endswith(".weight") and tensor.dim() in (2, 4)
    ]
    last = next((key for key in reversed(matrices) if f"{key}.bias" in state), None)
    return None if last is None else int(state[f"{last}.weight"].shape[0])


def _fits(module: nn.Module, state: Mapping[str, Tensor]) -> bool:
    own = {key: tensor.shape for key, tensor in module.state_dict().items()}
    own = {key: shape for key, shape in own.items() if not key.endswith("num_batches_tracked")}
    given = {
        key: tensor.shape
        for key, tensor in state.items()
        if not key.endswith("num_batches_tracked")
    }
    return own == given
