"""Shortens lists of sentences that differ only in names or numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

FEW = 3
"""Most similar sentences that are all kept, and most names that represent a longer list."""


def grouped(sentences: Sequence[str]) -> list[str]:
    """Replace more than :data:`FEW` similar sentences by the first one and a count.

    Two sentences are similar if they differ only in words with a digit, an inner dot or an
    underscore: names of modules, and numbers.
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
    """The first sentence, with the number of similar ones and the names in some of them."""
    first, *others = alike
    words = first.split()
    names = []
    for other in others[:FEW]:
        different = [new for old, new in zip(words, other.split(), strict=True) if old != new]
        names.append(different[0].strip(",;:.()"))
    more = ", …" if len(others) > FEW else ""
    return f"{first.rstrip('.')} (and {len(others)} more like it: {', '.join(names)}{more})."
