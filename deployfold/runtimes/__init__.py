"""How artifacts run: one file a runtime, each with its record, all behind one protocol.

Importing this package imports neither torch nor ONNX Runtime nor TensorRT: a runner does when it
loads its file. To add a runtime, write a module with a :class:`.runtime.Runtime` and name the
record in :data:`RUNTIMES`, or, in a package of your own, in the entry point group
:data:`.third_party.GROUP`.
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
"""The runtimes of deployfold itself."""

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
    """The runtimes of deployfold and of installed third parties."""
    return (*RUNTIMES, *third_party_runtimes(RUNTIMES)[0])


def broken_runtimes() -> tuple[Broken, ...]:
    """The third-party runtimes that cannot be used, and why."""
    return third_party_runtimes(RUNTIMES)[1]


def runtime_of(file: Path | str) -> Runtime | None:
    """The runtime of a file, by the longest suffix that fits its name; ``None`` if none does."""
    name = Path(file).name
    best = max(all_runtimes(), key=lambda one: one.opens(name))
    return best if best.opens(name) else None


def runtime_by_key(key: str) -> Runtime:
    """The runtime with that key.

    Raises:
        KeyError: there is none.
    """
    for one in all_runtimes():
        if one.key == key:
            return one
    raise KeyError(f"No runtime has the key {key!r}.")
