"""Runs a TensorRT or TensorRT-RTX engine with NumPy arrays and CUDA's driver API, without torch.

The Python bindings of TensorRT 10.16, 11.4 and TensorRT-RTX 1.7.1 all have every TensorRT name used
here, with the same signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deployfold.compiling.tensorrt.network import DTYPES
from deployfold.errors import MeasureError
from deployfold.runtimes.tensorrt_library import CudaGraph, select_profile
from deployfold.util.arrays import Array

from .cuda import Buffer, Cuda
from .failures import as_measure_error
from .layer_times import Profile
from .settings import RunSettings
from .tensorrt_file import numpy_dtype, plain
from .tensorrt_load import LoadedEngine, load_engine
from .tensorrt_profile import profile_engine
from .times import DeviceTimes, Timeline


class EngineRunner:
    """Runs an engine with its sidecar on a CUDA device.

    A step copies the inputs from pinned memory, runs the engine and copies the outputs back, on one
    stream with events between, as trtexec does. If possible, the runner captures the engine's work
    once as a CUDA graph and launches that graph. TensorRT-RTX captures the graph itself.

    Args:
        cuda: the device; it must outlive the runner.
    """

    def __init__(self, path: Path, cuda: Cuda, settings: RunSettings | None = None) -> None:
        self._path = path
        self._cuda = cuda
        self._settings = settings or RunSettings()
        self._loaded: LoadedEngine | None = None
        self._engine: Any = None
        self._context: Any = None
        self._stream = 0
        self._timeline: Timeline | None = None
        self._inputs: dict[str, Buffer] = {}
        self._outputs: dict[str, Buffer] = {}
        self._recorded, self._graph = False, 0
        self.cuda_graph = CudaGraph(False, "nothing was run yet")
        """How the engine's work is launched; known after :meth:`bind`."""

    def load(self) -> None:
        """Load the engine.

        Raises:
            MeasureError: the sidecar names another GPU or library version, or the library cannot
                load the engine.
        """
        self.take(load_engine(self._path, self._cuda.compute_capability, self._settings))

    def take(self, loaded: LoadedEngine) -> None:
        """Use ``loaded``, which :meth:`close` then closes."""
        self._loaded, self._engine, self._context = loaded, loaded.engine, loaded.context.context
        self._stream = self._cuda.stream()
        self._timeline = Timeline(self._cuda, self._stream)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs, in the engine's order; the engine must be loaded."""
        return tuple(self._names("INPUT"))

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, in the engine's order; the engine must be loaded."""
        return tuple(self._names("OUTPUT"))

    def bind(self, inputs: Mapping[str, Array]) -> None:
        """Bind inputs by name: allocate buffers, run once, and capture the CUDA graph.

        Inputs with the same shapes as before reuse the buffers and the graph.

        Raises:
            MeasureError: the engine does not accept the inputs, or fails.
        """
        if self._context is None:
            raise MeasureError(f"{self._path.name} is not loaded.")
        missing = [name for name in self.input_names if name not in inputs]
        if missing:
            raise MeasureError(f"{self._path.name} needs an input named {missing[0]!r}.")
        arrays = {
            name: np.asarray(inputs[name], dtype=self._dtype(name)) for name in self.input_names
        }
        if self._fit_buffers(arrays):
            for name, array in arrays.items():
                self._inputs[name].array[...] = array
            return
        with as_measure_error(f"{self._path.name} does not take these inputs"):
            self._free()
            self._bind(arrays)
        with as_measure_error(f"{self._path.name} failed"):
            self._record()

    def step(self) -> DeviceTimes:
        """Run one inference on the bound inputs.

        Raises:
            MeasureError: the inference failed.
        """
        if self._timeline is None:
            raise MeasureError(f"{self._path.name} is not loaded.")
        times = self._timeline.run(self._copy_in, self._launch, self._copy_out)
        return replace(times, graph=self.cuda_graph)

    def profile(self, calls: int) -> Profile:
        """The time of each layer, launched without a CUDA graph; see :func:`.profile_engine`."""
        if self._loaded is None:
            raise MeasureError(f"{self._path.name} is not loaded.")
        self._copy_in()
        with as_measure_error(f"{self._path.name} cannot be profiled"):
            return profile_engine(self._loaded, self._enqueue_and_wait, calls)

    def outputs(self) -> dict[str, Array]:
        """Copies of the last outputs in the engine's order; bfloat16 and float8 as float32."""
        return {name: plain(buffer.array) for name, buffer in self._outputs.items()}

    def close(self) -> None:
        """Free buffers, context, engine and runtime, in that order; closing twice is allowed.

        Raises:
            UsageError: the runtime cache cannot be written; everything is freed nevertheless.
        """
        self._free()
        if self._timeline is not None:
            self._timeline.close()
        if self._stream:
            self._cuda.call("cuStreamDestroy_v2", self._stream)
        self._timeline, self._stream = None, 0
        loaded, self._loaded, self._engine, self._context = self._loaded, None, None, None
        if loaded is not None:
            loaded.close()

    def _fit_buffers(self, arrays: Mapping[str, Array]) -> bool:
        """Whether the bound buffers and the graph can serve these inputs.

        Inputs that TensorRT reads on the host cannot be replaced: their values may decide shapes,
        which the graph has captured.
        """
        return self._recorded and all(
            self._inputs[name].copied and self._inputs[name].array.shape == array.shape
            for name, array in arrays.items()
        )

    def _bind(self, arrays: Mapping[str, Array]) -> None:
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        if not select_profile(self._engine, self._context, self._stream, shapes):
            raise MeasureError(
                f"{self._path.name}: no optimization profile contains the shapes {shapes}."
            )
        self._cuda.call("cuStreamSynchronize", self._stream)
        for name, array in arrays.items():
            if not self._context.set_input_shape(name, tuple(array.shape)):
                raise MeasureError(
                    f"{self._path.name}: no optimization profile contains the shape "
                    f"{'x'.join(map(str, array.shape))} of {name!r}{self._because()}."
                )
            self._inputs[name] = self._buffer(name, array.shape)
            # TensorRT may read host tensors as early as in infer_shapes.
            self._inputs[name].array[...] = array
        # The result is empty if every shape is known, else the names of the missing inputs.
        unknown = self._context.infer_shapes()
        if unknown:
            raise MeasureError(f"{self._path.name}: the shape of {unknown[0]!r} is not set.")
        for name in self.output_names:
            shape = tuple(self._context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise MeasureError(
                    f"{self._path.name}: the shape of the output {name!r} depends on the data,"
                    " which deployfold does not support."
                )
            self._outputs[name] = self._buffer(name, shape)

    def _record(self) -> None:
        """Run once, so that TensorRT applies the new shapes, and then capture the graph.

        See https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/best-practices.html.
        """
        self._copy_in()
        self._enqueue_and_wait()
        if not self._settings.cuda_graph:
            self.cuda_graph = CudaGraph(False, "--no-cuda-graph")
        elif self._loaded is not None and self._loaded.context.captures:
            self.cuda_graph = self._loaded.context.graph(self._stream)
        else:
            try:
                self._graph = self._cuda.capture(self._stream, self._enqueue)
                self.cuda_graph = CudaGraph(True)
            except MeasureError as error:
                reason = error.message.rstrip(".")
                self.cuda_graph = CudaGraph(False, f"the engine cannot be captured ({reason})")
        self._recorded = True

    def _launch(self) -> None:
        if self._graph:
            self._cuda.call("cuGraphLaunch", self._graph, self._stream)
        else:
            self._enqueue()

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise MeasureError(f"{self._path.name} failed{self._because()}.")

    def _enqueue_and_wait(self) -> None:
        self._enqueue()
        self._cuda.call("cuStreamSynchronize", self._stream)

    def _copy_in(self) -> None:
        self._cuda.copy_in(self._inputs.values(), self._stream)

    def _copy_out(self) -> None:
        self._cuda.copy_out(self._outputs.values(), self._stream)

    def _buffer(self, name: str, shape: tuple[int, ...]) -> Buffer:
        dtype = self._dtype(name)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        on_host = self._engine.get_tensor_location(name).name == "HOST"
        made = self._cuda.buffer(size, on_host=on_host)
        if not self._context.set_tensor_address(name, made.device):
            raise MeasureError(f"{self._path.name}: no address for {name!r}{self._because()}.")
        return replace(made, array=made.array.view(dtype).reshape(shape))

    def _free(self) -> None:
        if self._graph:
            self._cuda.call("cuGraphExecDestroy", self._graph)
        self._recorded, self._graph = False, 0
        self._cuda.free((*self._inputs.values(), *self._outputs.values()))
        self._inputs, self._outputs = {}, {}

    def _names(self, mode: str) -> list[str]:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return [name for name in names if engine.get_tensor_mode(name).name == mode]

    def _dtype(self, name: str) -> np.dtype[Any]:
        kind = self._engine.get_tensor_dtype(name).name
        try:
            return numpy_dtype(DTYPES[kind])
        except (KeyError, TypeError) as error:
            raise MeasureError(
                f"{self._path.name}: numpy has no {kind}, the dtype of {name!r}.",
                hint="Build with float32 inputs and outputs.",
            ) from error

    def _because(self) -> str:
        return "" if self._loaded is None else self._loaded.because()
