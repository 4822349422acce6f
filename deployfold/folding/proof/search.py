"""A search for the BatchNorms that must stay because the model's own code looks at them.

Code may read a BatchNorm's statistics, ask for its class, or read a tensor behind torch's back, and
no trace shows such an access. The effect shows after folding: the forward fails, or the outputs
differ. The search then folds as many BatchNorms as possible without that effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")

_SPARE = 4
"""Extra folds beyond the number that finds one BatchNorm, in case the code looks at a second."""


@dataclass(frozen=True)
class Found(Generic[Result]):
    """The result of a search.

    Attributes:
        kept: the names that stay.
        untried: the names among ``kept`` for which the search ended before a smaller set was tried.
        result: the result of folding all other names.
    """

    kept: frozenset[str]
    untried: frozenset[str]
    result: Result


def most_folds(names: int) -> int:
    """The most folds that a search among so many names takes, each with its verification.

    Finding one name takes two folds for each halving.
    """
    return 2 * max(1, names - 1).bit_length() + _SPARE


def keep_needed(
    names: Sequence[str], attempt: Callable[[frozenset[str]], Result | None]
) -> Found[Result] | None:
    """Search for a small set of ``names`` to keep, such that folding all others works.

    A set is freed as a whole if that works, and otherwise by halves (Zeller, 1999: delta
    debugging).

    Args:
        attempt: folds all but the given names, and returns ``None`` if the result is not the same
            function.

    Returns:
        The result, or ``None`` if not even keeping all names helps: the cause is then elsewhere.
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
