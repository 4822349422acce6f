"""How the user wants files to be run, whatever the runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .tensorrt_library import RunOptions


@dataclass(frozen=True)
class RunSettings:
    """How the user wants files to be run; every runtime takes what concerns it.

    Attributes:
        threads: CPU threads; ``None`` leaves the runtime's own number.
        device: ``cpu`` or ``cuda:0``, see :func:`.device_choice.resolve_device`; ``None`` is
            where the runtime runs files by itself.
        tf32: fp32 may be rounded to TF32 on a GPU, in every runtime alike.
        provider: an execution provider of ONNX Runtime, as ``--provider`` takes it.
        engine: how TensorRT engines are run.
        trust: the file may run code of its own: its author is trusted.
        allow_globals: classes that a pickled module may use beside those of known packages.
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
        """How engines are run; a trusted one may run code that it carries."""
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
        """Read what :meth:`to_json` wrote."""
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
