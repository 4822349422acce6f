"""The runtimes of artifacts: one module per runtime, with one record and one common protocol.

Importing this package imports neither torch nor ONNX Runtime nor TensorRT; a runner imports its
library when it loads a file. To add a runtime, write a module with a :class:`.runtime.Runtime`
record, and add the record to :data:`RUNTIMES`. Another package adds its record in the entry point
group :data:`.third_party.GROUP`.
"""

from __future__ import annotations

from pathlib import Path

from .aot_inductor import AOT_INDUCTOR
from .eager import EAGER
from .onnxruntime import ONNX_RUNTIME
from .program import PROGRAM
from .runtime import Runtime, Shipping, TritonModel
from .settings import RunSettings
from .tensorrt import TENSORRT
from .third_party import Broken, third_party_runtimes
from .torch_tensorrt import TORCH_TENSORRT
from .torchscript import TORCHSCRIPT

RUNTIMES: tuple[Runtime, ...] = (
    EAGER,
    TORCHSCRIPT,
    PROGRAM,
    AOT_INDUCTOR,
    ONNX_RUNTIME,
    TENSORRT,
    TORCH_TENSORRT,
)
"""The built-in runtimes."""

__all__ = [
    "AOT_INDUCTOR",
    "EAGER",
    "ONNX_RUNTIME",
    "PROGRAM",
    "RUNTIMES",
    "TENSORRT",
    "TORCHSCRIPT",
    "TORCH_TENSORRT",
    "Broken",
    "RunSettings",
    "Runtime",
    "Shipping",
    "TritonModel",
    "all_runtimes",
    "broken_runtimes",
    "runtime_by_key",
    "runtime_of",
]


def all_runtimes() -> tuple[Runtime, ...]:
    """The built-in runtimes and those of installed third parties."""
    return (*RUNTIMES, *third_party_runtimes(RUNTIMES)[0])


def broken_runtimes() -> tuple[Broken, ...]:
    """The third-party runtimes that cannot be used, with the reasons."""
    return third_party_runtimes(RUNTIMES)[1]


def runtime_of(file: Path | str) -> Runtime | None:
    """The runtime whose longest suffix matches the file's name; ``None`` if none matches."""
    name = Path(file).name
    best = max(all_runtimes(), key=lambda one: one.opens(name))
    return best if best.opens(name) else None


def runtime_by_key(key: str) -> Runtime:
    """The runtime with this key; a ``KeyError`` without one."""
    return {one.key: one for one in all_runtimes()}[key]
