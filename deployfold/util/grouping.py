"""Many sentences that differ in names or numbers alone, as one sentence with three of the names."""

from __future__ import annotations

import re
from collections.abc import Sequence

FEW = 3
"""Sentences of one kind that are all kept, and names that stand for the others of a longer list."""


def grouped(sentences: Sequence[str]) -> list[str]:
    """The sentences, where more than :data:`FEW` of one kind become the first and a count.

    Two sentences are of one kind if they differ only in words that hold a digit, a dot within or an
    underscore, as the names of modules and numbers do.
    """
    kinds: dict[str, list[str]] = {}
    for sentence in dict.fromkeys(sentences):
        kinds.setdefault(" ".join(map(_masked, sentence.split())), []).append(sentence)
    found = []
    for alike in kinds.values():
        found += alike if len(alike) <= FEW else [_joined(alike)]
    return found


def _masked(word: str) -> str:
    return "*" if re.search(r"\d|\w\.\w|_", word) else word


def _joined(alike: Sequence[str]) -> str:
    """The first sentence, how many are like it, and what the next ones name in its place."""
    first, *others = alike
    words = first.split()
    names = []
    for other in others[:FEW]:
        different = [new for old, new in zip(words, other.split(), strict=True) if old != new]
        names.append(different[0].strip(",;:.()"))
    more = ", …" if len(others) > FEW else ""
    return f"{first.rstrip('.')} (and {len(others)} more like it: {', '.join(names)}{more})."
