"""The settings for running files, common to all runtimes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunSettings:
    """The settings for running files. Every runtime uses the settings that apply to it.

    Attributes:
        threads: CPU threads; ``None`` keeps the runtime's default.
        device: ``cpu`` or ``cuda:0``, see :func:`.device_choice.resolve_device`; ``None`` is
            the runtime's default device.
        tf32: whether every runtime may round fp32 to TF32 on a GPU.
        provider: an execution provider of ONNX Runtime, in the form of ``--provider``.
        cuda_graph: launch the work of a call as one CUDA graph, if it can be captured.
        runtime_cache: a directory where TensorRT-RTX keeps the kernels that it compiles when an
            engine first runs, one file per engine. TensorRT compiles no kernels at run time.
        trust: whether the file may run its own code, because its author is trusted: Python,
            native code, or the lean runtime in a version-compatible engine.
        allow_globals: classes that a pickled module may use, besides those of known packages.
    """

    threads: int | None = None
    device: str | None = None
    tf32: bool = True
    provider: str | None = None
    cuda_graph: bool = True
    runtime_cache: Path | None = None
    trust: bool = False
    allow_globals: tuple[str, ...] = ()
