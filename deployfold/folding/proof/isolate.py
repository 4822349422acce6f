"""Which BatchNorms have to stay because the model's own code looks at them.

Code may read a BatchNorm's statistics, ask for its class, or read a tensor behind torch's back, and
no trace shows that. It shows once they are folded: the forward fails, or the outputs differ. The
search then folds as many as go without that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")

_SPARE = 4
"""Folds beyond those that find one BatchNorm, for a second one that is looked at."""


@dataclass(frozen=True)
class Found(Generic[Result]):
    """What a search found.

    Attributes:
        kept: has to stay, or ``untried``: was in no smaller set that was tried.
        result: what folding all others gives.
    """

    kept: frozenset[str]
    untried: frozenset[str]
    result: Result


def most_folds(names: int) -> int:
    """The folds that a search among so many takes at most, each with its verification.

    To find one takes two for each halving.
    """
    return 2 * max(1, names - 1).bit_length() + _SPARE


def keep_needed(
    names: Sequence[str], attempt: Callable[[frozenset[str]], Result | None]
) -> Found[Result] | None:
    """The smallest set of ``names`` found to be kept, and what folding all others gives.

    Sets are freed as a whole if that works, and else by halves (Zeller, 1999: delta debugging).

    Args:
        names: what may have to be kept.
        attempt: folds all but the given names; None if the result is not the same function.

    Returns:
        None if not even keeping all of them helps: then something else is the matter.
    """
    kept = frozenset(names)
    best = attempt(kept)
    if best is None:
        return None
    left = most_folds(len(names))
    groups = [list(names)]
    while groups and left > 0:
        group = groups.pop()
        for half in filter(None, (group[: len(group) // 2], group[len(group) // 2 :])):
            left -= 1
            result = attempt(kept - set(half))
            if result is not None:
                kept, best = kept - set(half), result
            elif len(half) > 1:
                groups.append(half)
    untried = frozenset(name for group in groups for name in group)
    return Found(kept, untried & kept, best)
