"""The settings for running files, common to all runtimes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .tensorrt_library import RunOptions


@dataclass(frozen=True)
class RunSettings:
    """The settings for running files. Every runtime uses the settings that apply to it.

    Attributes:
        device: ``cpu`` or ``cuda:0``, see :func:`.device_choice.resolve_device`; ``None`` is
            the runtime's default device.
        tf32: whether every runtime may round fp32 to TF32 on a GPU.
        provider: an execution provider of ONNX Runtime, in the form of ``--provider``.
        trust: whether the file may run its own code, because its author is trusted.
        allow_globals: classes that a pickled module may use, besides those of known packages.
    """

    threads: int | None = None
    device: str | None = None
    tf32: bool = True
    provider: str | None = None
    engine: RunOptions = field(default_factory=RunOptions)
    trust: bool = False
    allow_globals: tuple[str, ...] = ()

    @property
    def engine_options(self) -> RunOptions:
        """The options for running engines; a trusted engine may run the code that it contains."""
        return replace(self.engine, allow_host_code=self.engine.allow_host_code or self.trust)
