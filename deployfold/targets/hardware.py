"""Which GPUs have which precision, asked before a build that could only fail."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deployfold.compiling.request import LIBRARY_TITLES, Library

from .catalogue import sm_name

OLDEST: dict[str, tuple[int, int]] = {"bf16": (8, 0), "int4": (8, 0), "fp8": (8, 9)}
"""The oldest compute capability that a precision builds for; those not here build for all.

bf16 and fp8 are those of the hardware table of TensorRT's support matrix. All three are what the
builder of TensorRT-RTX 1.7.1 takes, which refuses the others with «HW-specific datatypes»; for int4
TensorRT has no such bound."""

_RTX_ONLY = frozenset({"int4"})


def precision_refusal(
    precision: str, compute_capabilities: Iterable[tuple[int, int]], library: Library
) -> str | None:
    """Why no engine in ``precision`` can be built for all of those GPUs; ``None`` if it can.

    Args:
        precision: ``fp16``, ``fp8`` and so on.
        compute_capabilities: of the targets' profiles.
        library: that would build it.
    """
    lacking = sorted(set(compute_capabilities) - set(serving(precision, compute_capabilities)))
    if not lacking or (precision in _RTX_ONLY and library != "tensorrt_rtx"):
        return None
    where = ", ".join(sm_name(pair) for pair in lacking)
    return (
        f"No {precision} engine for {where}: {LIBRARY_TITLES[library]} builds {precision} for "
        f"{sm_name(OLDEST[precision])} and newer."
    )


def serving(
    precision: str, compute_capabilities: Iterable[tuple[int, int]]
) -> Sequence[tuple[int, int]]:
    """Those of the compute capabilities that have the precision, in their order."""
    oldest = OLDEST.get(precision, (0, 0))
    return tuple(pair for pair in compute_capabilities if pair >= oldest)
