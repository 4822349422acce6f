"""Which GPUs have which precision, asked before a build that could only fail."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deployfold.config.engine import LIBRARY_TITLES, Library
from deployfold.config.precision import Precision

from .catalogue import sm_name


def precision_refusal(
    precision: str, compute_capabilities: Iterable[tuple[int, int]], library: Library
) -> str | None:
    """Why no engine in ``precision`` can be built for all of those GPUs; ``None`` if it can.

    Args:
        precision: ``fp16``, ``fp8`` and so on.
        compute_capabilities: of the targets' profiles.
        library: that would build it.
    """
    pairs = set(compute_capabilities)
    lacking = sorted(pairs - set(serving(precision, pairs, library)))
    if not lacking:
        return None
    where = ", ".join(sm_name(pair) for pair in lacking)
    oldest = sm_name(Precision(precision).record.oldest_for(library))
    return (
        f"No {precision} engine for {where}: {LIBRARY_TITLES[library]} builds {precision} for "
        f"{oldest} and newer."
    )


def serving(
    precision: str,
    compute_capabilities: Iterable[tuple[int, int]],
    library: Library,
) -> Sequence[tuple[int, int]]:
    """Those of the compute capabilities that ``library`` builds the precision for, in order."""
    oldest = Precision(precision).record.oldest_for(library)
    return tuple(pair for pair in compute_capabilities if pair >= oldest)
