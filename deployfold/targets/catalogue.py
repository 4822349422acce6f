"""The GPUs that ``--target`` knows, read from ``profiles/gpus/*.toml``.

Compute capabilities and memory come from the NVIDIA pages that each profile names. The precisions
come from the hardware table of TensorRT's support matrix,
https://docs.nvidia.com/deeplearning/tensorrt/latest/getting-started/support-matrix.html.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployfold.config.precision import Precision
from deployfold.config.profiles_root import profiles_root
from deployfold.errors import UsageError
from deployfold.util.toml import read_toml

from .compute_capability import ComputeCapability, dotted, parse_dotted, parse_target, sm_name

PRECISIONS = tuple(
    dict.fromkeys(
        ["tf32"]
        + [one.value for one in Precision if one.record.tensor_cores]
        + ["fp4"]  # in NVIDIA's table like TF32; deployfold builds in neither
    )
)
"""The values allowed under ``precisions`` in a profile, oldest first."""

AUTO = "auto"
"""The ``--target`` for the GPU in the machine; see :mod:`deployfold.compiling.planning`."""

_KINDS: dict[str, type] = {
    "name": str,
    "title": str,
    "family": str,
    "compute_capability": str,
    "memory_gib": float,
    "precisions": list,
    "source": str,
    "memory_source": str,
    "aliases": list,  # the only key that may be missing
}
_HINT = "List the known GPUs with deployfold targets."


@dataclass(frozen=True)
class GpuTarget:
    """A GPU to build for, as ``profiles/gpus/*.toml`` describes it.

    Attributes:
        name: the short name that ``--target`` takes, such as ``rtx4090``.
        title: the product name, such as ``GeForce RTX 4090``.
        compute_capability: major and minor, ``(8, 9)`` for sm_89.
        memory_gib: device memory in GiB; for a Jetson, the memory shared with the CPU.
        precisions: the precisions of its tensor cores, such as ``("fp16", "int8")``.
        source: the address of NVIDIA's document for the compute capability.
        family: the architecture, such as ``Ada Lovelace``.
        aliases: other names that ``--target`` takes for it.
        memory_source: the address of NVIDIA's document for the memory.
    """

    name: str
    title: str
    compute_capability: ComputeCapability
    memory_gib: float
    precisions: tuple[str, ...]
    source: str
    family: str = ""
    aliases: tuple[str, ...] = ()
    memory_source: str = ""

    @property
    def sm(self) -> str:
        """The architecture as NVIDIA's compilers write it: ``sm_89``."""
        return sm_name(self.compute_capability)


def load_targets(root: Path | None = None) -> tuple[GpuTarget, ...]:
    """Read every GPU profile, sorted by compute capability, then by name.

    Args:
        root: the directory of ``*.toml`` files; by default the profiles that ship with deployfold.

    Raises:
        UsageError: a file is not TOML; a key is missing, unknown or has a bad value; or two files
            claim the same name. The message names the file and the key.
    """
    directory = profiles_root() / "gpus" if root is None else root
    targets = [read_target(path) for path in sorted(directory.glob("*.toml"))]
    owner: dict[str, str] = {}
    for target in targets:
        for key in sorted(_keys(target)):
            if owner.setdefault(key, target.name) != target.name:
                raise UsageError(
                    f"The GPU profiles {owner[key]} and {target.name} both claim the name {key!r}.",
                    hint=f"Give one of them another name or alias, in {directory}.",
                )
    return tuple(sorted(targets, key=lambda target: (target.compute_capability, target.name)))


def read_target(path: Path) -> GpuTarget:
    """Read and validate one GPU profile.

    Raises:
        UsageError: as for :func:`load_targets`.
    """
    table, _ = read_toml(path, "GPU profile")
    _check_keys(path, table)
    text = table["compute_capability"]
    if (capability := parse_dotted(text)) is None:
        raise UsageError(f"{path}: 'compute_capability' must be like \"8.9\", not {text!r}.")
    found: dict[str, Any] = {
        key: tuple(one) if isinstance(one, list) else one for key, one in table.items()
    }
    found |= {"compute_capability": capability, "memory_gib": float(table["memory_gib"])}
    return GpuTarget(**found)


def resolve(name: str, targets: Sequence[GpuTarget] | None = None) -> GpuTarget:
    """The GPU that a user means by ``name``.

    1. ``sm_89``, ``sm89`` or ``8.9``: a target named ``sm_89`` with the precisions that all known
       GPUs of this compute capability share.
    2. A name, alias or product title, in any case, with or without spaces and dashes.

    Args:
        name: one value of ``--target``.
        targets: the known GPUs; :func:`load_targets` by default.

    Raises:
        UsageError: no known GPU has this name; the hint suggests the nearest names.
    """
    known = load_targets() if targets is None else targets
    capability = parse_target(name)
    if capability is not None:
        return _of_capability(capability, name, known)
    wanted = normalise(name)
    for target in known:
        if wanted in _keys(target):
            return target
    names = {key: target.name for target in known for key in _keys(target)}
    near = difflib.get_close_matches(wanted, names, n=5, cutoff=0.6)
    raise _unknown(name, list(dict.fromkeys(names[key] for key in near))[:3])


def identify(gpu_name: str, targets: Sequence[GpuTarget]) -> GpuTarget | None:
    """The profile of the GPU that the driver calls ``gpu_name``, or ``None``.

    The driver's name must equal a name, alias or title, apart from the vendor's words: the laptop
    variant of a chip is another GPU.
    """
    wanted = normalise(gpu_name)
    return next((target for target in targets if wanted in _keys(target)), None)


def normalise(name: str) -> str:
    """A name without case, punctuation and the words ``NVIDIA``, ``GeForce`` and ``Tesla``."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    return "".join(word for word in words if word not in ("nvidia", "geforce", "tesla"))


def _keys(target: GpuTarget) -> set[str]:
    return {normalise(key) for key in (target.name, target.title, *target.aliases)}


def _of_capability(wanted: ComputeCapability, name: str, known: Sequence[GpuTarget]) -> GpuTarget:
    same = [target for target in known if target.compute_capability == wanted]
    if not same:
        every = sorted({target.sm for target in known})
        raise _unknown(name, difflib.get_close_matches(sm_name(wanted), every, n=3, cutoff=0.5))
    return GpuTarget(
        name=sm_name(wanted),
        title=f"any GPU of compute capability {dotted(wanted)}",
        family=same[0].family,
        compute_capability=wanted,
        memory_gib=min(target.memory_gib for target in same),
        precisions=tuple(
            one for one in PRECISIONS if all(one in target.precisions for target in same)
        ),
        source=same[0].source,
        memory_source=same[0].memory_source,
    )


def _unknown(name: str, near: Sequence[str]) -> UsageError:
    guess = f"Did you mean {' or '.join(near)}? " if near else ""
    return UsageError(f"{name!r} is not a GPU that deployfold knows.", hint=guess + _HINT)


def _check_keys(path: Path, table: Mapping[str, Any]) -> None:
    for key in table.keys() - _KINDS.keys():
        raise UsageError(f"{path}: unknown key {key!r}.", hint=f"The keys are {', '.join(_KINDS)}.")
    for key in _KINDS:
        if key not in table and key != "aliases":
            raise UsageError(f"{path}: the key {key!r} is missing.")
    for key, value in table.items():
        kind = _KINDS[key]
        # A number in TOML may be an integer. Python counts booleans as integers, so exclude them.
        accepted: tuple[type, ...] = (int, float) if kind is float else (kind,)
        if isinstance(value, bool) or not isinstance(value, accepted):
            name = {str: "string", float: "number", list: "list of words"}[kind]
            raise UsageError(f"{path}: {key!r} must be a {name}, not {value!r}.")
        words = value if isinstance(value, list) else []
        if not all(isinstance(word, str) and word for word in words):
            raise UsageError(f"{path}: {key!r} must be a list of words, not {value!r}.")
        if kind is str and not value:
            raise UsageError(f"{path}: {key!r} is empty.")
    if not 0 < table["memory_gib"] < float("inf"):
        raise UsageError(f"{path}: 'memory_gib' must be positive, not {table['memory_gib']}.")
    for precision in table["precisions"]:
        if precision not in PRECISIONS:
            raise UsageError(
                f"{path}: 'precisions' has the unknown value {precision!r}.",
                hint=f"The precisions are {', '.join(PRECISIONS)}.",
            )
    for key in ("source", "memory_source"):
        if not table[key].startswith("https://"):
            raise UsageError(f"{path}: {key!r} must be an https address, not {table[key]!r}.")
