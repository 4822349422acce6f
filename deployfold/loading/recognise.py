"""Recognises the architecture of a checkpoint by the name of its file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from deployfold.config.flag_values import ZOOS
from deployfold.errors import LoadError, UsageError

from . import zoo
from .arch import Match, match
from .fit import Fit
from .weights import Weights

_STRAY_SHARE = 0.01
"""A file name identifies an architecture only if at most this share of the checkpoint's values is
left over. More left-over values belong to a larger network that contains the named one."""


def recognise(
    path: Path,
    weights: Mapping[str, Tensor] | Sequence[Weights],
    *,
    key: str | None = None,
    named: str = "",
) -> Match | None:
    """The architecture in the file's name, if the names and shapes of the weights confirm it.

    Args:
        path: the checkpoint.
        weights, key: see :func:`match`.
        named: the name of an architecture that the file contains.
    """
    for arch in _likeliest_first(path.name, named):
        try:
            found = match(arch, weights, key=key)
        except (LoadError, UsageError):
            continue
        if not found.problems and not _contains_more(found.fit):
            return found
    return None


def _likeliest_first(filename: str, named: str) -> Iterator[str]:
    """The candidates, each once; timm is imported if the first does not do.

    A file that is named after a torchvision model and nothing else has no longer name in it.
    """
    stem = filename.partition(".")[0].lower()
    first = [f"torchvision:{stem}"] if not named and stem in zoo.names("torchvision") else []
    yield from first
    for arch in dict.fromkeys((*candidates(named), *candidates(filename))):
        if arch not in first:
            yield arch


def _contains_more(fit: Fit) -> bool:
    """Whether the weights belong to a larger network: more than ``_STRAY_SHARE`` is left out.

    Copies of the network under another prefix, such as an average, do not count.
    """
    tensors = fit.weights.tensors
    stray = [
        tensors[key]
        for key in fit.left_out
        if key in tensors and not any(key.endswith(f".{own}") for own in _endings(fit, key))
    ]
    total = sum(tensor.numel() for tensor in fit.state.values())
    return sum(tensor.numel() for tensor in stray) > _STRAY_SHARE * total


def _endings(fit: Fit, key: str) -> list[str]:
    parts = key.split(".")
    return [name for at in range(1, len(parts)) if (name := ".".join(parts[at:])) in fit.state]


def candidates(filename: str) -> list[str]:
    """Zoo names that occur in a file name, longest first, torchvision before timm."""
    words = re.sub(r"[^a-z0-9]+", "_", filename.lower())
    found: list[tuple[int, int, str]] = []
    for order, package in enumerate(ZOOS):
        for name in zoo.names(package):
            plain = re.sub(r"[^a-z0-9]+", "_", name.lower())
            stands_alone = re.search(rf"(?<![a-z0-9]){re.escape(plain)}(?![a-z0-9])", words)
            if stands_alone or words.replace("_", "").startswith(plain.replace("_", "")):
                found.append((-len(plain), order, f"{package}:{name}"))
    return [arch for _, _, arch in sorted(found)[:8]]


def near(filename: str) -> list[str]:
    """Up to three architectures with a name like that of a file, the likeliest first."""
    stem = filename.lower().partition(".")[0]
    close = [
        f"{package}:{name}"
        for package in ZOOS
        for name in difflib.get_close_matches(stem, zoo.names(package), n=2)
    ]
    return list(dict.fromkeys([*candidates(filename), *close]))[:3]
