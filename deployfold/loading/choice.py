"""Chooses among the sets of weights, or the modules, of one checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, TypeVar

import torch
from torch import nn

from deployfold.errors import LoadError, UsageError

from .fit import Fit
from .weights import find_lists, is_average, size_of

_T = TypeVar("_T")
_USUAL = (
    "state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params",
    "generator", "student",
)  # fmt: skip
"""Keys and prefixes under which trainers store the model itself, the likeliest first."""


def choose_fit(fits: Sequence[Fit], key: str | None) -> tuple[Fit, tuple[str, ...]]:
    """The weights to load among those that fit an architecture, with notes on the others.

    Args:
        fits: fits without problems; at least one.
        key: the user's choice, as part of a key or prefix; ``None`` chooses by the usual names.

    Raises:
        LoadError: several sets differ, and no name is more usual than the others.
        UsageError: ``key`` names none of them.
    """
    whole = [fit for fit in fits if not fit.weights.nested] or list(fits)
    chosen, others, rivals = _choose(
        whole, key, "several sets of weights that fit, and they differ", lambda fit: fit.label,
        _described, lambda one, other: not _equal(one, other),
    )  # fmt: skip
    notes = []
    if chosen.weights.path:
        notes.append(f"The weights are those under {chosen.weights.label!r} in the file.")
    noted = [fit for fit in others if fit in rivals or is_average(fit.label)]
    return chosen, (*notes, *unused([fit.label for fit in noted], key))


def choose_module(
    found: Sequence[tuple[tuple[str, ...], _T]], key: str | None
) -> tuple[_T, tuple[str, ...]]:
    """The module to use among those of a checkpoint, with notes on the others.

    Args:
        found: the modules, each with the keys under which the checkpoint has it; at least one.
        key: the user's choice, as part of a key; ``None`` chooses by the usual names.

    Raises:
        LoadError: several models differ, and no name is more usual than the others.
        UsageError: ``key`` names none of them.
    """
    chosen, others, _ = _choose(
        found, key, "several models", lambda one: ".".join(one[0]),
        lambda one: f"{'.'.join(one[0])!r} ({type(one[1]).__name__})", _differ,
    )  # fmt: skip
    return chosen[1], unused([".".join(path) for path, _ in others], key)


def unused(labels: Sequence[str], key: str | None) -> tuple[str, ...]:
    """A note on each set of weights that fits as well and is not used."""
    if key is not None:
        return ()
    return tuple(
        f"The averaged weights under {label!r} are not used; --weights {label} takes them."
        if is_average(label)
        else f"The weights under {label!r} fit too and are not used; --weights {label} takes them."
        for label in labels
        if label
    )


def unnamed(tree: Any, module: nn.Module) -> tuple[str, ...]:
    """A note on each list of averaged weights, as torch_ema and diffusers write it: the parameters
    in their order, without names. Frozen parameters may be left out.
    """
    notes = []
    for path, tensors in find_lists(tree):
        label, parameters = ".".join(path), (size_of(one) for one in module.parameters())
        if is_average(label) and all(size_of(one) in parameters for one in tensors):
            notes.append(
                f"The averaged weights under {label!r} are a list without names and are not used. "
                "To use them, call ema.copy_to(model.parameters()) where the model was trained, "
                "and save model.state_dict()."
            )
    return tuple(notes)


def _differ(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    """Whether two loaded modules with parameters are different models."""
    first, second = one[1], other[1]
    if not isinstance(first, nn.Module) or not isinstance(second, nn.Module):
        return False  # not loaded, which is refused later
    if first is second or not any(True for _ in first.parameters()):
        return False
    states = first.state_dict(), second.state_dict()
    return states[0].keys() != states[1].keys() or not all(
        torch.equal(value, states[1][key]) for key, value in states[0].items()
    )


def _choose(
    items: Sequence[_T],
    key: str | None,
    what: str,
    label: Callable[[_T], str],
    describe: Callable[[_T], str],
    differ: Callable[[_T, _T], bool],
) -> tuple[_T, list[_T], list[_T]]:
    """The likeliest item, the others, and those of them that differ from it and are no average.

    Without a ``key``, items that differ are refused if no name is more usual than the others.
    """
    if key is not None:
        items = _named(items, key, label)
    labels = [label(item) for item in items]
    keys = [(is_average(one), rank) for one, rank in zip(labels, _ranks(labels), strict=True)]
    ordered = [items[index] for index in sorted(range(len(items)), key=keys.__getitem__)]
    chosen, *others = ordered
    rivals = [one for one in others if not is_average(label(one)) and differ(one, chosen)]
    first, *rest = _ranks([label(one) for one in (chosen, *rivals)])
    if key is None and rest and first >= min(rest):
        raise LoadError(
            f"The checkpoint has {what}: {'; '.join(map(describe, (chosen, *rivals)))}.",
            hint=f"Choose one: --weights {label(chosen) or label(rivals[0])}.",
        )
    return chosen, others, rivals


def _named(items: Sequence[_T], key: str, label: Callable[[_T], str]) -> Sequence[_T]:
    """The items whose label is ``key``; else those with ``key`` as a part; else as a substring."""
    key = key.strip(".")
    tests: tuple[Callable[[str], bool], ...] = (
        lambda text: text == key,
        lambda text: key in text.split("."),
        lambda text: key in text,
    )
    for test in tests:
        found = [item for item in items if test(label(item))]
        if found:
            return found
    labels = ", ".join(dict.fromkeys(label(item) or "its top level" for item in items))
    raise UsageError(
        f"No weights under {key!r} fit the model.", hint=f"The file has weights under: {labels}."
    )


def _ranks(labels: Sequence[str]) -> list[int]:
    """For each label the index in ``_USUAL`` of its likeliest part; ``len(_USUAL)`` without one.

    Parts that all labels share at their start do not count.
    """
    parts = [label.split(".") if label else [] for label in labels]
    shared = len(list(takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))))
    ranks = []
    for one in parts:
        known = [_USUAL.index(part) for part in one[shared:] or ["model"] if part in _USUAL]
        ranks.append(min(known, default=len(_USUAL)))
    return ranks


def _equal(one: Fit, other: Fit) -> bool:
    shared = one.state.keys() & other.state.keys()
    return all(torch.equal(one.state[key], other.state[key]) for key in shared)


def _described(fit: Fit) -> str:
    values = sum(tensor.numel() for tensor in fit.state.values())
    return f"{fit.label!r} ({len(fit.state)} tensors, {values:,} values)"
