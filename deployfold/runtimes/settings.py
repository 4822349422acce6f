"""The settings for running files, common to all runtimes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .tensorrt_library import RunOptions


@dataclass(frozen=True)
class RunSettings:
    """The settings for running files. Every runtime uses the settings that apply to it.

    Attributes:
        threads: CPU threads; ``None`` keeps the runtime's default.
        device: ``cpu`` or ``cuda:0``, see :func:`.device_choice.resolve_device`; ``None`` is
            the runtime's default device.
        tf32: whether every runtime may round fp32 to TF32 on a GPU.
        provider: an execution provider of ONNX Runtime, in the form of ``--provider``.
        engine: the options for running TensorRT engines.
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

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values; :meth:`from_json` reads them back."""
        cache = self.engine.runtime_cache
        return {
            "threads": self.threads,
            "device": self.device,
            "tf32": self.tf32,
            "provider": self.provider,
            "engine": {**vars(self.engine), "runtime_cache": None if cache is None else str(cache)},
            "trust": self.trust,
            "allow_globals": list(self.allow_globals),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunSettings:
        """Read the output of :meth:`to_json`."""
        engine = dict(data["engine"])
        if engine["runtime_cache"] is not None:
            engine["runtime_cache"] = Path(engine["runtime_cache"])
        return cls(
            **{
                **data,
                "engine": RunOptions(**engine),
                "allow_globals": tuple(data["allow_globals"]),
            }
        )
