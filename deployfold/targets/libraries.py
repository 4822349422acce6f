"""The engine libraries, TensorRT and TensorRT-RTX: one record each, and the GPUs they build for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, TypeAlias

from deployfold.config.precision import Precision
from deployfold.errors import DeployfoldError

from .compute_capability import ComputeCapability, sm_name, sm_names

Library = Literal["tensorrt", "tensorrt_rtx"]
"""The names of the Python packages, which sidecars, reports and job files also use."""

Version: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class LibraryRecord:
    """Everything that the rest of the package needs to know about one engine library.

    Attributes:
        title: NVIDIA's name.
        compute_capabilities: the GPUs that the library builds for on any machine; empty if it
            builds only for the GPU in the machine.
        portable: the GPUs that a portable engine serves; empty if the library builds none.
    """

    title: str
    install: str
    compute_capabilities: tuple[ComputeCapability, ...] = ()
    portable: tuple[ComputeCapability, ...] = ()


LIBRARIES: Mapping[Library, LibraryRecord] = {
    "tensorrt": LibraryRecord(title="TensorRT", install="pip install 'deployfold[tensorrt]'"),
    "tensorrt_rtx": LibraryRecord(
        title="TensorRT-RTX",
        install="pip install tensorrt-rtx",
        # The members of tensorrt_rtx.ComputeCapability as of 1.7; a test asks the library.
        compute_capabilities=((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1)),
        # NVIDIA advises an engine of its own for Turing (sm_75):
        # https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/support-matrix.html
        portable=((8, 0), (8, 6), (8, 9), (12, 0)),
    ),
}

OLDEST = (7, 5)
"""The oldest GPUs that the current versions of all libraries build for."""

_VOLTA = (7, 0)
_FIRST_WITHOUT_VOLTA = (10, 5)
# https://docs.nvidia.com/deeplearning/tensorrt/latest/getting-started/release-notes-10/10.5.0.html


def import_library(name: Library, error: type[DeployfoldError]) -> Any:
    """Import an engine library, and check that the module is NVIDIA's.

    Args:
        error: the class of the error to raise.

    Raises:
        DeployfoldError: the package is not installed or cannot load its shared libraries, or
            another module of that name comes first on ``sys.path``.
    """
    record = LIBRARIES[name]
    try:
        module = import_module(name)
    except Exception as cause:  # ImportError, OSError of a shared library, RuntimeError
        raise error(
            f"{record.title} cannot be imported: {cause}.",
            hint=f"Install it: {record.install}. If it is installed: deployfold doctor.",
        ) from cause
    if not hasattr(module, "ILogger"):
        raise error(
            f"{getattr(module, '__file__', name)} is not NVIDIA's {record.title} and hides it.",
            hint="Rename that file, or remove its directory from PYTHONPATH.",
        )
    return module


def tensorrt_builds_for(version: str, capability: ComputeCapability) -> bool:
    """Whether this version of TensorRT builds for a GPU that is in the machine.

    Args:
        version: the library's version, such as ``10.3.0``. A version without numbers counts as
            able to build.
        capability: the GPU's compute capability.
    """
    parts = version_parts(version)
    if capability >= OLDEST or not parts:
        return True
    return capability >= _VOLTA and parts < _FIRST_WITHOUT_VOLTA


def capabilities_with(
    precision: Precision, capabilities: Iterable[ComputeCapability], library: Library
) -> tuple[ComputeCapability, ...]:
    """The given compute capabilities that ``library`` builds the precision for, in order."""
    oldest = precision.record.oldest_for(library)
    return tuple(capability for capability in capabilities if capability >= oldest)


def precision_refusal(
    precision: Precision, capabilities: Iterable[ComputeCapability], library: Library
) -> str | None:
    """Why ``library`` cannot build an engine in ``precision`` for all of these GPUs.

    Returns:
        The reason and the precision to take instead; ``None`` if the library can.
    """
    wanted = set(capabilities)
    lacking = sorted(wanted - set(capabilities_with(precision, wanted, library)))
    if not lacking:
        return None
    oldest = sm_name(precision.record.oldest_for(library))
    name = precision.value
    return (
        f"No {name} engine for {sm_names(lacking)}: {LIBRARIES[library].title} builds {name} for "
        f"{oldest} and newer. Take --{Precision.FP16.value} there."
    )


def lean_runtime_hint(errors: Iterable[str]) -> str | None:
    """How to install the lean runtime, where errors of TensorRT name its missing library.

    A version-compatible engine takes ``libnvinfer_lean``, which TensorRT's own wheels lack.
    """
    if not any("nvinfer_lean" in error for error in errors):
        return None
    return "Install the lean runtime of the same version: pip install tensorrt-lean."


def version_parts(version: str) -> Version:
    """The numbers of a version: ``(11, 2, 1, 2)`` for ``11.2.1.2``, and ``()`` for ``unknown``."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
