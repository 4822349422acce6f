"""Runs an engine with NumPy arrays and CUDA's driver API; torch is not needed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployfold.compile.network import DTYPES
from deployfold.compile.runtime import collecting_logger, runtime_library, select_profile
from deployfold.compile.sidecar import Here, damage, mismatch, read_sidecar
from deployfold.errors import MeasureError

from .cuda import Cuda

Array = NDArray[Any]


@dataclass(frozen=True)
class StepTimes:
    """One inference by the GPU's clock, in milliseconds; ``enqueue_ms`` is by the host's."""

    compute_ms: float
    h2d_ms: float
    d2h_ms: float
    enqueue_ms: float


@dataclass(frozen=True)
class _Buffer:
    """One tensor: page-locked host memory and device memory of the same size.

    ``device`` is the host's address where TensorRT wants the tensor on the host.
    """

    host: int
    array: Array
    device: int
    size: int

    @property
    def copied(self) -> bool:
        return self.device != self.host


class EngineRunner:
    """An engine with its sidecar, on the first CUDA device.

    As :class:`deployfold.measure.tensorrt_runner.TensorRTRunner` does, a step copies the inputs
    from pinned memory, runs the engine and copies the outputs back, on one stream, with events
    between the three.
    """

    def __init__(self, path: Path, cuda: Cuda, *, allow_host_code: bool = False) -> None:
        self._path = path
        self._cuda = cuda
        self._allow_host_code = allow_host_code
        self._messages: list[str] = []
        self._log: Any = None
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._stream = 0
        self._events: tuple[int, ...] = ()
        self._inputs: dict[str, _Buffer] = {}
        self._outputs: dict[str, _Buffer] = {}

    def load(self) -> None:
        """Load the engine.

        Raises:
            MeasureError: by its sidecar it is not for this GPU and library, or it does not load.
        """
        name = self._path.name
        sidecar = read_sidecar(self._path)
        if (broken := damage(sidecar, self._path)) is not None:
            raise MeasureError(f"{name} is damaged: {broken}.")
        trt = runtime_library(sidecar["library"])
        here = Here(self._cuda.compute_capability, str(trt.__version__))
        if (reason := mismatch(sidecar, here)) is not None:
            raise MeasureError(f"{name} cannot run here: {reason}.")
        self._log = collecting_logger(trt, self._messages)
        self._runtime = trt.Runtime(self._log)
        if self._allow_host_code:
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(self._path.read_bytes())
        if self._engine is None:
            raise MeasureError(f"{name} cannot be loaded{self._because()}.")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise MeasureError(f"{name} has no execution context{self._because()}.")
        self._stream = self._cuda.stream()
        self._events = tuple(self._cuda.event() for _ in range(4))

    def bind(self, inputs: Mapping[str, Array]) -> None:
        """Make buffers for those inputs, by name, and for the outputs that come of them.

        Raises:
            MeasureError: the engine does not take them.
        """
        self._free()
        names = self._names("INPUT")
        missing = [name for name in names if name not in inputs]
        if missing:
            raise MeasureError(f"{self._path.name} needs an input named {missing[0]!r}.")
        arrays = {
            name: np.ascontiguousarray(inputs[name], dtype=self._dtype(name)) for name in names
        }
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        if not select_profile(self._engine, self._context, self._stream, shapes):
            raise MeasureError(
                f"{self._path.name}: no optimization profile holds the shapes {shapes}."
            )
        self._cuda.call("cuStreamSynchronize", self._stream)
        for name, array in arrays.items():
            if not self._context.set_input_shape(name, tuple(array.shape)):
                raise MeasureError(
                    f"{self._path.name}: no optimization profile holds the shape "
                    f"{'x'.join(map(str, array.shape))} of {name!r}{self._because()}."
                )
            buffer = self._buffer(name, array.shape)
            buffer.array[...] = array
            self._inputs[name] = buffer
        unknown = self._context.infer_shapes()
        if unknown:
            raise MeasureError(f"{self._path.name}: the shape of {unknown[0]!r} is not set.")
        for name in self._names("OUTPUT"):
            shape = tuple(self._context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise MeasureError(
                    f"{self._path.name}: the shape of the output {name!r} depends on the data."
                )
            self._outputs[name] = self._buffer(name, shape)

    def step(self) -> StepTimes:
        """One inference on what was bound.

        Raises:
            MeasureError: it failed.
        """
        cuda, stream = self._cuda, self._stream
        begin, copied, computed, end = self._events
        cuda.call("cuEventRecord", begin, stream)
        for one in self._inputs.values():
            if one.copied:
                cuda.call("cuMemcpyHtoDAsync_v2", one.device, one.host, one.size, stream)
        cuda.call("cuEventRecord", copied, stream)
        launch = time.perf_counter()
        enqueued = self._context.execute_async_v3(stream)
        launched = time.perf_counter()
        cuda.call("cuEventRecord", computed, stream)
        for one in self._outputs.values():
            if one.copied:
                cuda.call("cuMemcpyDtoHAsync_v2", one.host, one.device, one.size, stream)
        cuda.call("cuEventRecord", end, stream)
        cuda.call("cuStreamSynchronize", stream)
        if not enqueued:
            raise MeasureError(f"{self._path.name} failed{self._because()}.")
        return StepTimes(
            compute_ms=cuda.elapsed_ms(copied, computed),
            h2d_ms=cuda.elapsed_ms(begin, copied),
            d2h_ms=cuda.elapsed_ms(computed, end),
            enqueue_ms=1e3 * (launched - launch),
        )

    def outputs(self) -> dict[str, Array]:
        """Copies of the outputs of the last step, by name, in the engine's order."""
        return {name: buffer.array.copy() for name, buffer in self._outputs.items()}

    def close(self) -> None:
        """Free buffers, context, engine and runtime, in that order; more than once is no error."""
        self._free()
        self._context = None
        self._engine = None
        self._runtime = None
        for event in self._events:
            self._cuda.call("cuEventDestroy_v2", event)
        if self._stream:
            self._cuda.call("cuStreamDestroy_v2", self._stream)
        self._events, self._stream, self._log = (), 0, None

    def _buffer(self, name: str, shape: tuple[int, ...]) -> _Buffer:
        dtype = self._dtype(name)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        host, memory = self._cuda.pinned(size)
        on_host = self._engine.get_tensor_location(name).name == "HOST"
        device = host if on_host else self._cuda.device_memory(size)
        if not self._context.set_tensor_address(name, device):
            raise MeasureError(f"{self._path.name}: no address for {name!r}{self._because()}.")
        return _Buffer(host, memory.view(dtype).reshape(shape), device, size)

    def _free(self) -> None:
        for one in (*self._inputs.values(), *self._outputs.values()):
            if one.copied:
                self._cuda.free_device(one.device)
            self._cuda.free_pinned(one.host)
        self._inputs, self._outputs = {}, {}

    def _names(self, mode: str) -> list[str]:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return [name for name in names if engine.get_tensor_mode(name).name == mode]

    def _dtype(self, name: str) -> np.dtype[Any]:
        kind = self._engine.get_tensor_dtype(name).name
        try:
            return np.dtype(DTYPES[kind])
        except (KeyError, TypeError) as error:
            raise MeasureError(
                f"{self._path.name}: numpy has no {kind}, the dtype of {name!r}.",
                hint="Build with float32 inputs and outputs.",
            ) from error

    def _because(self) -> str:
        return f": {self._messages[-1]}" if self._messages else ""
