"""Compute capabilities of NVIDIA GPUs: the pair ``(8, 9)``, and the texts ``sm_89`` and ``8.9``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

ComputeCapability: TypeAlias = tuple[int, int]
"""Major and minor: ``(8, 9)``."""


def sm_name(capability: ComputeCapability) -> str:
    """The name of the architecture, as NVIDIA's compilers write it: ``sm_89`` for ``(8, 9)``."""
    return "sm_{}{}".format(*capability)


def sm_names(capabilities: Iterable[ComputeCapability]) -> str:
    """Several architectures in a sentence: ``sm_80, sm_89``."""
    return ", ".join(map(sm_name, capabilities))


def dotted(capability: ComputeCapability) -> str:
    """The capability as NVIDIA's documents and ``nvidia-smi`` write it: ``8.9``."""
    return "{}.{}".format(*capability)


def parse_dotted(text: str) -> ComputeCapability | None:
    """Read ``8.9``; ``None`` for any other text, such as ``[N/A]`` from a Jetson's ``nvidia-smi``.

    NVIDIA's minor numbers have one digit, its major numbers at most two.
    """
    match = re.fullmatch(r"([1-9]\d?)\.(\d)", text, re.ASCII)
    return None if match is None else (int(match[1]), int(match[2]))


def sm_of_dotted(text: str) -> str:
    """The architecture for a capability in NVIDIA's form: ``sm_89`` for ``8.9``."""
    return f"sm_{text.replace('.', '')}"


def parse_target(text: str) -> ComputeCapability | None:
    """Read the forms that a user may write for ``(8, 9)``: ``sm_89``, ``sm89``, ``SM 89``, ``8.9``.

    Returns:
        ``None`` for any other text, such as the name of a GPU.
    """
    match = re.fullmatch(r"\s*(?:sm[_ -]?(\d+)(\d)|(\d+)\.(\d))\s*", text, re.IGNORECASE)
    if match is None:
        return None
    return int(match[1] or match[3]), int(match[2] or match[4])
