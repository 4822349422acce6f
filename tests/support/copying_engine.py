"""An engine in Python that copies its input ``x`` to its output ``y``, by the driver in C.

It has what :class:`deployfold.runtimes.tensorrt_engine.EngineRunner` asks of TensorRT, by the names
that ``test_tensorrt_contract.py`` holds against the real library: the runner's own part, which is
when to bind, to capture and to launch, can be seen without a GPU.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from deployfold.runtimes.cuda import Cuda


class CopyingEngine:
    """``y = x``, float32 of (n, 2), n up to 4; one optimization profile."""

    num_io_tensors = 2
    num_optimization_profiles = 1

    def __init__(self, location: str = "DEVICE") -> None:
        self.location = location

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name="INPUT" if name == "x" else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name="FLOAT")

    def get_tensor_location(self, name: str) -> Any:
        return SimpleNamespace(name=self.location if name == "x" else "DEVICE")


class CopyingContext:
    """The execution context of :class:`CopyingEngine`.

    Attributes:
        runs: how often its work was put on a stream.
        waits: waiting is part of the work, which cannot be captured.
        fails: the work cannot be put there at all.
    """

    def __init__(self, cuda: Cuda, *, waits: bool = False, fails: bool = False) -> None:
        self.cuda, self.waits, self.fails = cuda, waits, fails
        self.runs = 0
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return shape[0] <= 4

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        self.runs += 1
        if self.fails:
            return False
        size = 4 * self.shape[0] * self.shape[1]
        to, origin = self.addresses["y"], self.addresses["x"]
        self.cuda.call("cuMemcpyDtoHAsync_v2", to, origin, size, stream_handle)
        if self.waits:
            self.cuda.call("cuStreamSynchronize", stream_handle)
        return True
