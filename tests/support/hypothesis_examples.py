"""The number of examples of a property test."""

from __future__ import annotations

import os

FACTOR = int(os.environ.get("DEPLOYFOLD_EXAMPLES_FACTOR", "1"))
"""1 in ``make test``; ``make test-random`` sets 10."""


def examples(count: int) -> int:
    """``count`` in ``make test``, and ten times that in ``make test-random``."""
    return count * FACTOR
