"""Pairs the layers of two forms of a model."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from .side import Folds, LayerOutput, Side


@dataclass(frozen=True, eq=False)
class Pair:
    """Two points whose values should be equal, with a name and a kind.

    ``folded`` is the name of a BatchNorm that one side has after the layer, and the other has
    folded into the layer.
    """

    name: str
    kind: str
    first: LayerOutput
    second: LayerOutput
    folded: str | None = None


@dataclass(frozen=True, eq=False)
class Pairing:
    """All pairs, in the first side's order.

    Attributes:
        skipped: layers of the first side that differ by design, around a folded BatchNorm.
        alone: layers with weights that only the first side has.
    """

    pairs: tuple[Pair, ...]
    skipped: tuple[str, ...]
    alone: tuple[str, ...]


def pair(first: Side, second: Side) -> Pairing:
    """Pair the points of two sides; each tensor is compared once."""
    ours, theirs = first.folds(second), second.folds(first)
    by_key = {key: point for point in second.points for key in point.keys}
    # If the second side has the BatchNorm, its output pairs with the first side's layer.
    norms = {key: norm for norm, layer in theirs.taken_up.items() for key in layer.keys}
    pairs, skipped, alone = [], [], []
    seen: set[tuple[Hashable, Hashable]] = set()
    for point in first.points:
        if point.tensor in ours.interior:
            skipped.append(point.name)
            continue
        found = _paired(point, ours, norms, by_key)
        if found is None:
            if point.weights:
                alone.append(point.name)
        elif found.second.tensor in theirs.interior:
            skipped.append(point.name)
        elif (point.tensor, found.second.tensor) not in seen:
            seen.add((point.tensor, found.second.tensor))
            pairs.append(found)
    return Pairing(tuple(pairs), tuple(skipped), tuple(alone))


def _paired(
    point: LayerOutput,
    ours: Folds,
    norms: dict[Hashable, LayerOutput],
    by_key: dict[Hashable, LayerOutput],
) -> Pair | None:
    norm = next((norms[key] for key in point.keys if key in norms), None)
    if norm is not None:
        return Pair(point.name, f"{point.kind} + BN", point, norm, norm.name)
    layer = ours.taken_up.get(point)
    for key in (*point.keys, *(layer.keys if layer else ())):
        if key in by_key and layer is not None:
            return Pair(layer.name, f"{layer.kind} + BN", point, by_key[key], point.name)
        if key in by_key:
            return Pair(point.name, point.kind, point, by_key[key])
    return None
