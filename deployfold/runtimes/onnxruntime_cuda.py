"""Runs ONNX Runtime with inputs and outputs bound on a GPU, timed by CUDA events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cuda import Cuda
from .times import DeviceTimes, Timeline

Array = NDArray[Any]


@dataclass(frozen=True)
class _Buffer:
    """Page-locked host memory, and for inputs device memory of the same size."""

    host: int
    array: Array
    device: int
    size: int


class BoundSession:
    """A session of the CUDA provider whose inputs and outputs stay on the GPU.

    Args:
        session: a session made with :func:`provider_options` of the same ``cuda`` and ``stream``.
        cuda: the device; it must outlive this object.
    """

    def __init__(self, session: Any, cuda: Cuda, stream: int, feed: Mapping[str, Array]) -> None:
        self._session, self._cuda, self._stream = session, cuda, stream
        self._timeline = Timeline(cuda, stream)
        self._inputs: list[_Buffer] = []
        self._outputs: list[_Buffer] = []
        self._binding = session.io_binding()
        for name, array in feed.items():
            host, memory = cuda.pinned(array.nbytes)
            buffer = _Buffer(host, memory, cuda.device_memory(array.nbytes), array.nbytes)
            memory[...] = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
            self._inputs.append(buffer)
            self._binding.bind_input(
                name, "cuda", cuda.index, array.dtype, array.shape, buffer.device
            )
        for output in session.get_outputs():
            self._binding.bind_output(output.name, "cuda", cuda.index)

    def step(self) -> DeviceTimes:
        """Run one inference: copy the inputs in, compute, copy the outputs out, on one stream."""
        return self._timeline.run(self._copy_in, self._compute, self._copy_out)

    def close(self) -> None:
        """Free the memory and the events on the GPU."""
        for one in self._inputs:
            self._cuda.free_device(one.device)
        for one in (*self._inputs, *self._outputs):
            self._cuda.free_pinned(one.host)
        self._timeline.close()
        self._inputs, self._outputs = [], []

    def _copy_in(self) -> None:
        for one in self._inputs:
            self._cuda.call("cuMemcpyHtoDAsync_v2", one.device, one.host, one.size, self._stream)

    def _compute(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def _copy_out(self) -> None:
        values = [one for one in self._binding.get_outputs() if one.device_name() == "cuda"]
        for value, buffer in zip(values, self._room_for(values), strict=True):
            address = value.data_ptr()
            self._cuda.call("cuMemcpyDtoHAsync_v2", buffer.host, address, buffer.size, self._stream)

    def _room_for(self, values: list[Any]) -> list[_Buffer]:
        """Host memory for the outputs, allocated in the first step."""
        if len(self._outputs) != len(values):
            for value in values:
                size = value.tensor_size_in_bytes()
                host, memory = self._cuda.pinned(size)
                self._outputs.append(_Buffer(host, memory, 0, size))
        return self._outputs


def provider_options(cuda: Cuda, stream: int, *, tf32: bool) -> dict[str, str]:
    """The CUDA provider's options: the device, the stream, and TF32 as in every row.

    See https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html.
    """
    return {
        "device_id": str(cuda.index),
        "user_compute_stream": str(stream),
        "use_tf32": str(int(tf32)),
    }
