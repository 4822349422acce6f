"""The GPU, the driver and the engine libraries of this machine, found without importing them."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path

from deployfold.util import child

from .catalogue import GpuTarget, identify, load_targets
from .compute_capability import ComputeCapability, parse_dotted
from .libraries import Library

_QUERY = "uuid,name,compute_cap,driver_version,memory.total"
"""The fields that :func:`parse_nvidia_smi` expects, in this order."""
_CUDA_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
"""Variables that hide GPUs from CUDA, or reorder them."""
_DEVICE_TREE = Path("/proc/device-tree/model")
"""The file with the name of the board, on a Jetson."""


@dataclass(frozen=True)
class Gpu:
    """CUDA's device 0; a field is ``None`` where it could not be read."""

    name: str
    compute_capability: ComputeCapability
    driver_version: str | None = None
    memory_gib: float | None = None
    uuid: str | None = None


@dataclass(frozen=True)
class Machine:
    """The GPU and the engine libraries of a machine.

    Attributes:
        gpu: CUDA's device 0; ``None`` without a GPU or a working driver.
        tensorrt: the version of the importable ``tensorrt``; ``"unknown"`` where the package has
            no metadata, and ``None`` where it is not installed.
        tensorrt_rtx: the same for ``tensorrt_rtx``.
        profile: the GPU profile of ``gpu``, where its name is known.
    """

    gpu: Gpu | None = None
    tensorrt: str | None = None
    tensorrt_rtx: str | None = None
    profile: GpuTarget | None = None

    def version(self, library: Library) -> str | None:
        """The version of an engine library; ``None`` where it is not installed."""
        return self.tensorrt if library == "tensorrt" else self.tensorrt_rtx

    def gpu_for(self, target: GpuTarget) -> Gpu | None:
        """The GPU in this machine, if it is ``target``; else ``None``.

        TensorRT tunes an engine for one GPU model, so a named target must be the same model. For a
        target such as ``sm_87``, the same compute capability is enough; so it is where the driver
        does not report a model's name, as on a Jetson.
        """
        if self.gpu is None or self.gpu.compute_capability != target.compute_capability:
            return None
        named = self.profile is not None and not target.name.startswith("sm_")
        return self.gpu if not named or self.profile == target else None


def detect() -> Machine:
    """Find the GPU and the engine libraries of this machine.

    Three sources can name the GPU. The first one that answers counts:

    1. ``nvidia-smi``, which ships with every driver and needs no Python package. If there are
       several GPUs, or the environment hides some from CUDA, the result is CUDA's device 0.
    2. torch, if it is already imported.
    3. The device tree of a Jetson, whose ``nvidia-smi`` may be missing or report ``[N/A]``.
    """
    targets = load_targets()
    gpu = _from_nvidia_smi() or _from_torch() or _from_device_tree(targets)
    return Machine(
        gpu=gpu,
        tensorrt=library_version("tensorrt"),
        tensorrt_rtx=library_version("tensorrt_rtx"),
        profile=None if gpu is None else identify(gpu.name, targets),
    )


def library_version(package: str) -> str | None:
    """The version of an importable package.

    The search leaves out the working directory, where a user may have a ``tensorrt.py``.

    Returns:
        ``"unknown"`` if the package has no metadata, and ``None`` if it is not installed.
    """
    here = os.path.realpath(os.getcwd())  # noqa: PTH109 - compared with entries of sys.path
    path = [entry for entry in sys.path if entry and os.path.realpath(entry) != here]
    spec = PathFinder.find_spec(package, path)
    if spec is None or spec.submodule_search_locations is None:
        return None
    imported = getattr(sys.modules.get(package), "__version__", None)
    if isinstance(imported, str):
        return imported.partition("+")[0]  # 2.14.1+cu130 is version 2.14.1 of the distribution
    versions = {one.version for one in _installed(tuple(sys.path)).get(package, ())}
    return next(iter(versions)) if len(versions) == 1 else "unknown"


@lru_cache(maxsize=4)
def _installed(path: tuple[str, ...]) -> dict[str, list[importlib.metadata.Distribution]]:
    """The distributions that contain each package.

    Several distributions may contain the same package: ``onnxruntime`` and ``onnxruntime-gpu``.
    """
    found: dict[str, list[importlib.metadata.Distribution]] = {}
    for distribution in importlib.metadata.distributions(path=list(path)):
        # importlib.metadata.packages_distributions parses the same lists, but takes seconds.
        record = distribution.read_text("RECORD") or ""
        for package in re.findall(r"^(\w+)/__init__\.py,", record, flags=re.MULTILINE):
            found.setdefault(package, []).append(distribution)
    return found


def parse_nvidia_smi(text: str) -> tuple[Gpu, ...]:
    """The GPUs in the CSV that ``nvidia-smi --query-gpu`` prints for :data:`_QUERY`."""
    found = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) != 5:
            continue
        uuid, name, capability_text, driver, memory = (field.strip() for field in row)
        capability = parse_dotted(capability_text)
        if capability is None:  # "[N/A]" on a Jetson, or an error text without a driver
            continue
        mebibytes = re.match(r"\d+", memory)
        found.append(
            Gpu(
                name=name,
                compute_capability=capability,
                driver_version=driver if re.match(r"\d", driver) else None,
                memory_gib=int(mebibytes.group()) / 1024 if mebibytes else None,
                uuid=uuid if uuid.startswith("GPU-") else None,
            )
        )
    return tuple(found)


def parse_device_tree(model: str, targets: Sequence[GpuTarget]) -> Gpu | None:
    """The GPU of the Jetson with this model name in its device tree; ``None`` for other boards.

    Args:
        model: such as ``NVIDIA Jetson AGX Orin Developer Kit``. The longest profile name in this
            text counts.
    """
    text = re.sub(r"[^a-z0-9]", "", model.lower())
    found: list[tuple[int, GpuTarget]] = []
    for target in targets:
        if not target.name.startswith("jetson-"):
            continue
        keys = (re.sub(r"[^a-z0-9]", "", key.lower()) for key in (target.name, *target.aliases))
        found += [(len(key), target) for key in keys if key in text]
    if not found or "jetson" not in text:
        return None
    target = max(found, key=lambda pair: pair[0])[1]
    return Gpu(name=target.title, compute_capability=target.compute_capability)


def _from_nvidia_smi() -> Gpu | None:
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=15,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    gpus = parse_nvidia_smi(done.stdout) if done.returncode == 0 else ()
    if len(gpus) == 1 and not any(name in os.environ for name in _CUDA_VARIABLES):
        return gpus[0]
    return _used_by_cuda(gpus)


def _used_by_cuda(gpus: Sequence[Gpu]) -> Gpu | None:
    """CUDA's device 0, which may differ from GPU 0 of ``nvidia-smi``; ``None`` without one.

    By default, CUDA lists the fastest GPU first, and ``nvidia-smi`` lists GPUs by PCI address. Only
    the UUID is common to both.
    """
    variables = (*_CUDA_VARIABLES, "LD_LIBRARY_PATH")
    device = _ask_cuda(tuple(map(os.environ.get, variables))) if gpus else None
    if device is None:
        return None
    # A MIG slice has its own UUID, which nvidia-smi's list of GPUs lacks.
    alone = replace(device, driver_version=gpus[0].driver_version)
    return next((gpu for gpu in gpus if gpu.uuid == device.uuid), alone)


@lru_cache(maxsize=8)
def _ask_cuda(variables: tuple[str | None, ...]) -> Gpu | None:
    """CUDA's device 0; ``None`` if there is no device or the driver does not answer.

    A child process queries CUDA, so that a crash of the driver does not end this process.
    """
    with tempfile.TemporaryDirectory(prefix="deployfold-") as directory:
        try:
            done = subprocess.run(
                child.command("deployfold.runtimes.cuda", "main"),
                cwd=directory,
                env=child.environment(),
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            uuid, name, major, minor = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError):
            return None
    return Gpu(name, (major, minor), uuid=uuid)


def _from_torch() -> Gpu | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return Gpu(
        name=properties.name,
        compute_capability=(properties.major, properties.minor),
        memory_gib=properties.total_memory / 2**30,
    )


def _from_device_tree(targets: Sequence[GpuTarget]) -> Gpu | None:
    try:
        model = _DEVICE_TREE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return parse_device_tree(model, targets)
