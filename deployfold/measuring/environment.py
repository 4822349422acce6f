"""Describes the machine of a measurement, and chooses the number of threads."""

from __future__ import annotations

import platform
import subprocess
from contextlib import closing
from pathlib import Path

from deployfold.errors import MeasureError
from deployfold.reporting.conditions import Environment
from deployfold.runtimes.cuda import Cuda
from deployfold.runtimes.device import gpu_index
from deployfold.targets.machine import library_version

from .machine_load import allowed_cpus, governor, load_average

PACKAGES = (
    "deployfold",
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "tensorrt",
    "tensorrt-rtx",
    "torch-tensorrt",
    "torchvision",
    "timm",
    "numpy",
)


def describe(threads: int | None = None, device: str | None = None) -> Environment:
    """Describe this machine.

    Args:
        threads: the number of threads that the rows used; ``None`` for torch's number.
        device: the device that the rows used; the first GPU is described if that was the CPU.
    """
    return Environment(
        cpu=cpu_name(),
        physical_cores=physical_cores(),
        threads=threads or _torch_threads(),
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        gpu=gpu_name(gpu_index(device)),
        packages=package_versions(),
        cpus=len(allowed_cpus()),
        governor=governor(),
        load_average=load_average(),
    )


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def gpu_name(index: int) -> str | None:
    """The name of a CUDA device; ``None`` without a driver or such a device."""
    try:
        with closing(Cuda(index=index)) as cuda:
            return cuda.name
    except MeasureError:
        return None


def package_versions() -> dict[str, str]:
    """The versions of the installed packages among :data:`PACKAGES`, without importing them."""
    versions = {name: library_version(name.replace("-", "_")) for name in PACKAGES}
    return {name: version for name, version in versions.items() if version is not None}


def cpu_name() -> str:
    """The CPU's model name, or the architecture if the system does not report it."""
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            name = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
            return name.stdout.strip() or platform.machine()
        except (OSError, subprocess.SubprocessError):
            return platform.machine()
    for key in ("model name", "Model", "Hardware"):  # x86, Raspberry Pi and Jetson, older ARM
        value = _cpuinfo(Path("/proc/cpuinfo"), key)
        if value:
            return value
    return platform.processor() or platform.machine() or "unknown CPU"


def physical_cores() -> int:
    """The number of physical cores that this process may run on.

    Hardware threads count if the system does not report the cores.
    """
    allowed = allowed_cpus()
    siblings = set()
    for cpu in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            siblings.add(path.read_text(encoding="ascii").strip())
        except OSError:
            return max(1, len(allowed))
    return max(1, len(siblings))


def default_threads() -> int:
    """The default number of threads: the physical cores, limited by the CPU quota.

    The quota is the ``cpu.max`` of control group v2, which containers set. The kernel throttles
    more threads than the quota allows, and the latency would be that of the throttling.
    """
    return max(1, min(physical_cores(), _quota(Path("/sys/fs/cgroup/cpu.max")) or 1 << 20))


def _quota(path: Path) -> int | None:
    try:
        quota, period = path.read_text(encoding="ascii").split()
        return max(1, round(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # "max 100000" means no limit
        return None


def _cpuinfo(path: Path, key: str) -> str | None:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == key and value.strip():
            return value.strip()
    return None
