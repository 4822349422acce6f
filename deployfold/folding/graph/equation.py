"""The subscripts of an einsum equation, one letter for each axis."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Equation:
    """An einsum equation without ellipsis: the letters of each operand and of the result."""

    operands: tuple[str, ...]
    result: str

    @classmethod
    def read(cls, text: str, ranks: Sequence[int]) -> Equation:
        """Read an equation such as ``b...c,oc->b...o``.

        Args:
            ranks: the number of axes of each operand.
        """
        given, arrow, result = text.replace(" ", "").partition("->")
        free = [letter for letter in string.ascii_letters if letter not in text]
        operands = []
        widest = ""
        for part, rank in zip(given.split(","), ranks, strict=True):
            count = rank - len(part.replace("...", ""))
            # The axes of an ellipsis are aligned at their end.
            hidden = "".join(free[len(free) - count :]) if "..." in part else ""
            widest = max(widest, hidden, key=len)
            operands.append(part.replace("...", hidden))
        if not arrow:
            counts = Counter("".join(operands))
            single = sorted(one for one in counts if counts[one] == 1 and one not in widest)
            return cls(tuple(operands), widest + "".join(single))
        return cls(tuple(operands), result.replace("...", widest))
