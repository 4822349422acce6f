"""Chooses among the sets of weights, or the modules, of one checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from deployfold.errors import LoadError, UsageError

from .fit import Fit
from .weights import is_average

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
        LoadError: several sets differ, and none has a usual name.
        UsageError: ``key`` names none of them.
    """
    whole = [fit for fit in fits if not fit.weights.nested] or list(fits)
    chosen, others = _choose(whole, key, lambda fit: fit.label)
    rivals = [fit for fit in others if not is_average(fit.label) and not _equal(fit, chosen)]
    if key is None and rivals and _rank(chosen.label) == len(_USUAL):
        sets = "; ".join(_described(fit) for fit in (chosen, *rivals))
        raise LoadError(
            f"The checkpoint has several sets of weights that fit, and they differ: {sets}.",
            hint=f"Choose one: --weights {chosen.label or rivals[0].label}.",
        )
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
        UsageError: ``key`` names none of them.
    """
    chosen, others = _choose(found, key, lambda one: ".".join(one[0]))
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


def _choose(
    items: Sequence[_T], key: str | None, label: Callable[[_T], str]
) -> tuple[_T, list[_T]]:
    if key is not None:
        items = _named(items, key, label)
    ordered = sorted(items, key=lambda item: (is_average(label(item)), _rank(label(item))))
    return ordered[0], ordered[1:]


def _named(items: Sequence[_T], key: str, label: Callable[[_T], str]) -> Sequence[_T]:
    """The items whose label is ``key``; else those with ``key`` as a part; else as a substring."""
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


def _rank(label: str) -> int:
    """The index in ``_USUAL`` of the label's likeliest part; ``len(_USUAL)`` without one."""
    parts = label.split(".") if label else ["model"]
    ranks = [_USUAL.index(part) for part in parts if part in _USUAL]
    return min(ranks, default=len(_USUAL))


def _equal(one: Fit, other: Fit) -> bool:
    shared = one.state.keys() & other.state.keys()
    return all(torch.equal(one.state[key], other.state[key]) for key in shared)


def _described(fit: Fit) -> str:
    values = sum(tensor.numel() for tensor in fit.state.values())
    return f"{fit.label!r} ({len(fit.state)} tensors, {values:,} values)"
