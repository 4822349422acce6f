"""Which BatchNorms have to stay because the model's own code looks at them.

Code may read a BatchNorm's statistics, ask for its class, or read a tensor behind torch's back, and
no trace shows that. It shows once they are folded: the forward fails, or the outputs differ. The
search then folds as many as go without that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Result = TypeVar("Result")

_ATTEMPTS = 40
"""Folds at most, each with its verification; what is not tried by then stays."""


def keep_needed(
    names: Sequence[str], attempt: Callable[[frozenset[str]], Result | None]
) -> tuple[frozenset[str], Result] | None:
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
    attempts = 0
    groups = [list(names)]
    while groups and attempts < _ATTEMPTS:
        group = groups.pop()
        halves = [group[: len(group) // 2], group[len(group) // 2 :]]
        for half in filter(None, halves):
            attempts += 1
            result = attempt(kept - set(half))
            if result is not None:
                kept, best = kept - set(half), result
            elif len(half) > 1:
                groups.append(half)
    return kept, best
