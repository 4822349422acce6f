"""The conditions of a build in its report: the model, its inputs, the machine, the cost."""

from __future__ import annotations

from pydantic import Field

from .fields import Count, Frozen, Number

SLACK = 0.25
"""CPUs that other programs usually take: an editor, a browser, the terminal with a progress bar."""


def fitting_threads(cpus: int, others: float) -> int:
    """The threads that have a CPU each nearly all the time beside other programs; at least 1."""
    return max(1, int(cpus - others + SLACK))


class Source(Frozen):
    """The model that came in. ``sha256`` and ``bytes`` are of the file; ``None`` without one."""

    path: str
    kind: str
    sha256: str | None = None
    arch: str | None = None
    bytes: Count | None = None

    @property
    def file_name(self) -> str:
        """The last part of the path, which may be of another system."""
        return self.path.replace("\\", "/").rpartition("/")[2]


class DynamicAxis(Frozen):
    """An axis of an input that the build serves in several sizes, and the range of these."""

    axis: Count
    min: Count
    max: Count


class ModelInput(Frozen):
    """One model input; the batch axis comes first in ``shape``."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    dynamic: tuple[DynamicAxis, ...] = ()


class Environment(Frozen):
    """The machine and the libraries of a measurement.

    Attributes:
        cpu: the model name of the CPU.
        physical_cores: cores, not hardware threads, that the process could run on.
        threads: CPU threads that every measured row used.
        os: operating system and machine architecture.
        gpu: the name of the first CUDA device, if there is one.
        packages: versions of the importable packages, by the usual name of their distribution.
        cpus: hardware threads that the process could run on.
        governor: the CPU frequency governor; ``None`` without one, as in most VMs.
        load_average: the average number of processes that ran or waited in the last minute.
    """

    cpu: str
    physical_cores: Count
    threads: Count
    os: str
    python: str
    gpu: str | None = None
    packages: dict[str, str] = Field(default_factory=dict)
    cpus: Count | None = None
    governor: str | None = None
    load_average: Number | None = None


class StageCost(Frozen):
    """The time and the peak memory of a stage of the build.

    ``peak_bytes`` is the greatest resident memory of deployfold's process meanwhile, with that of
    the process that compiled the engine; ``None`` where the system does not report it.
    """

    stage: str
    seconds: Number
    peak_bytes: Count | None = None
