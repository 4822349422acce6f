"""Runs ONNX Runtime with inputs and outputs bound on a GPU, timed by CUDA events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from deployfold.util.arrays import Array

from .cuda import Buffer, Cuda
from .times import DeviceTimes, Timeline


class BoundSession:
    """A session of the CUDA provider whose inputs and outputs stay on the GPU.

    Args:
        session: a session made with :func:`provider_options` of the same ``cuda`` and ``stream``.
        cuda: the device; it must outlive this object.
    """

    def __init__(self, session: Any, cuda: Cuda, stream: int, feed: Mapping[str, Array]) -> None:
        self._session, self._cuda, self._stream = session, cuda, stream
        self._timeline = Timeline(cuda, stream)
        self._inputs: list[Buffer] = []
        self._outputs: list[Buffer] = []
        self._binding = session.io_binding()
        for name, array in feed.items():
            buffer = cuda.buffer(array.nbytes)
            buffer.array[...] = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
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
        self._cuda.free((*self._inputs, *self._outputs))
        self._timeline.close()
        self._inputs, self._outputs = [], []

    def _copy_in(self) -> None:
        self._cuda.copy_in(self._inputs, self._stream)

    def _compute(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def _copy_out(self) -> None:
        values = [one for one in self._binding.get_outputs() if one.device_name() == "cuda"]
        for value, buffer in zip(values, self._room_for(values), strict=True):
            address = value.data_ptr()
            self._cuda.call("cuMemcpyDtoHAsync_v2", buffer.host, address, buffer.size, self._stream)

    def _room_for(self, values: list[Any]) -> list[Buffer]:
        """Host memory for the outputs, allocated in the first step."""
        if len(self._outputs) != len(values):
            sizes = [value.tensor_size_in_bytes() for value in values]
            self._outputs = [self._cuda.buffer(size, on_host=True) for size in sizes]
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
