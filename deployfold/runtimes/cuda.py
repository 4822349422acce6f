"""The part of CUDA's driver API that running an engine needs, by ctypes.

A Jetson with TensorRT has the driver's library, but often neither torch nor cuda-python. A torch
for CPUs cannot use the driver even if it is installed. ctypes works everywhere. A test compares the
names and arguments with NVIDIA's ``cuda.h``. The newest function is from CUDA 11.4; a function with
other arguments would get a new name. See https://docs.nvidia.com/cuda/cuda-driver-api/index.html.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployfold.errors import MeasureError
from deployfold.util.arrays import Array

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_POINTER, _SIZE, _HANDLE = ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDeviceGet": (_HANDLE, ctypes.c_int),
    "cuDeviceGetName": (ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    "cuDeviceGetUuid": (ctypes.c_char_p, ctypes.c_int),
    "cuDeviceGetAttribute": (_HANDLE, ctypes.c_int, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (_HANDLE, ctypes.c_int),
    "cuDevicePrimaryCtxRelease_v2": (ctypes.c_int,),
    "cuDevicePrimaryCtxGetState": (ctypes.c_int, _HANDLE, _HANDLE),
    "cuCtxSetCurrent": (_HANDLE,),
    "cuMemAlloc_v2": (_HANDLE, _SIZE),
    "cuMemFree_v2": (_POINTER,),
    "cuMemHostAlloc": (_HANDLE, _SIZE, ctypes.c_uint),
    "cuMemFreeHost": (_HANDLE,),
    "cuMemcpyHtoDAsync_v2": (_POINTER, _HANDLE, _SIZE, _HANDLE),
    "cuMemcpyDtoHAsync_v2": (_HANDLE, _POINTER, _SIZE, _HANDLE),
    "cuStreamCreate": (_HANDLE, ctypes.c_uint),
    "cuStreamDestroy_v2": (_HANDLE,),
    "cuStreamSynchronize": (_HANDLE,),
    "cuEventCreate": (_HANDLE, ctypes.c_uint),
    "cuEventDestroy_v2": (_HANDLE,),
    "cuEventRecord": (_HANDLE, _HANDLE),
    "cuEventElapsedTime": (_HANDLE, _HANDLE, _HANDLE),
    "cuStreamBeginCapture_v2": (_HANDLE, ctypes.c_int),
    "cuStreamEndCapture": (_HANDLE, _HANDLE),
    "cuGraphInstantiateWithFlags": (_HANDLE, _HANDLE, ctypes.c_ulonglong),
    "cuGraphLaunch": (_HANDLE, _HANDLE),
    "cuGraphDestroy": (_HANDLE,),
    "cuGraphExecDestroy": (_HANDLE,),
    "cuGetErrorName": (ctypes.c_int, _HANDLE),
}


@dataclass(frozen=True)
class Buffer:
    """Page-locked host memory with an array of it, and as many bytes on the device.

    ``device`` equals ``host`` where the device uses the memory of the host itself.
    """

    host: int
    array: Array
    device: int
    size: int

    @property
    def copied(self) -> bool:
        """Whether the two memories differ."""
        return self.device != self.host


class Cuda:
    """A CUDA device whose primary context is current in this thread.

    TensorRT's runtime API also uses the primary context, so both share streams and memory.

    Args:
        library: the driver's library.
        index: the device's index among the devices that CUDA shows.

    Raises:
        MeasureError: the driver or the device is missing, or a call fails. Every method may raise
            this error too.
    """

    def __init__(self, library: str = _LIBRARY, *, index: int = 0) -> None:
        try:
            self._library: Any = ctypes.CDLL(library)
        except OSError as error:
            raise MeasureError("There is no NVIDIA driver here.") from error
        for name, arguments in _SIGNATURES.items():
            function = getattr(self._library, name, None)
            if function is None:
                raise MeasureError(f"The NVIDIA driver here is too old: it has no {name}.")
            function.argtypes, function.restype = arguments, ctypes.c_int
        self.index = index
        self.call("cuInit", 0)
        self._device = self._out(ctypes.c_int, "cuDeviceGet", index).value
        self._context = self._out(_HANDLE, "cuDevicePrimaryCtxRetain", self._device)
        self.call("cuCtxSetCurrent", self._context)

    def close(self) -> None:
        """Release the primary context."""
        if self._context is None:
            return
        self._context = None
        self.call("cuDevicePrimaryCtxRelease_v2", self._device)
        flags, active = ctypes.c_uint(), ctypes.c_int()
        self.call(
            "cuDevicePrimaryCtxGetState", self._device, ctypes.byref(flags), ctypes.byref(active)
        )
        if not active.value:
            # This was the last reference. CUDA leaves the destroyed context current in this
            # thread, where the next user, for example torch, would find it.
            self.call("cuCtxSetCurrent", None)

    @property
    def name(self) -> str:
        """The device's name, such as ``Orin``."""
        text = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", text, len(text), self._device)
        return text.value.decode(errors="replace")

    @property
    def uuid(self) -> str:
        """The device's UUID in the form of NVML and nvidia-smi: ``GPU-…``."""
        raw = ctypes.create_string_buffer(16)
        self.call("cuDeviceGetUuid", raw, self._device)
        digits = raw.raw.hex()
        parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
        return "GPU-" + "-".join(parts)

    @property
    def compute_capability(self) -> tuple[int, int]:
        """``(8, 7)`` for sm_87."""
        return self._attribute(_MAJOR), self._attribute(_MINOR)

    def device_memory(self, size: int) -> int:
        """The address of ``size`` bytes on the device; at least one byte, as TensorRT needs."""
        return int(self._out(_POINTER, "cuMemAlloc_v2", max(1, size)).value)

    def free_device(self, address: int) -> None:
        """Free the memory of :meth:`device_memory`."""
        self.call("cuMemFree_v2", address)

    def pinned(self, size: int) -> tuple[int, NDArray[np.uint8]]:
        """The address of ``size`` bytes of page-locked host memory, and an array of them."""
        address = int(self._out(_HANDLE, "cuMemHostAlloc", max(1, size), _PORTABLE).value or 0)
        return address, np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, address: int) -> None:
        """Free the memory of :meth:`pinned`; its array must not be used afterwards."""
        self.call("cuMemFreeHost", address)

    def buffer(self, size: int, *, on_host: bool = False) -> Buffer:
        """New memory of ``size`` bytes; ``on_host`` allocates none on the device."""
        host, array = self.pinned(size)
        return Buffer(host, array, host if on_host else self.device_memory(size), size)

    def free(self, buffers: Iterable[Buffer]) -> None:
        """Free the memory of buffers; their arrays must not be used afterwards."""
        for one in buffers:
            if one.copied:
                self.free_device(one.device)
            self.free_pinned(one.host)

    def copy_in(self, buffers: Iterable[Buffer], stream: int) -> None:
        """Enqueue the copies from the host to the device."""
        for one in buffers:
            if one.copied:
                self.call("cuMemcpyHtoDAsync_v2", one.device, one.host, one.size, stream)

    def copy_out(self, buffers: Iterable[Buffer], stream: int) -> None:
        """Enqueue the copies from the device to the host."""
        for one in buffers:
            if one.copied:
                self.call("cuMemcpyDtoHAsync_v2", one.host, one.device, one.size, stream)

    def stream(self) -> int:
        """A new stream, which does not wait for the default stream."""
        return int(self._out(_HANDLE, "cuStreamCreate", _NON_BLOCKING).value or 0)

    def event(self) -> int:
        """A new event that records times."""
        return int(self._out(_HANDLE, "cuEventCreate", 0).value or 0)

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Capture the work that ``work`` enqueues on ``stream``, without running it.

        ``work`` may enqueue only work that CUDA can capture: it must neither allocate nor wait.

        Returns:
            The handle of a graph for ``cuGraphLaunch``.

        Raises:
            MeasureError: the work cannot be captured, or ``work`` raises the error. The stream
                stays usable.
        """
        self.call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
        graph = _HANDLE()
        try:
            work()
        except BaseException:
            # End the capture, because a stream that is capturing accepts no other work.
            self._library.cuStreamEndCapture(stream, ctypes.byref(graph))
            self._library.cuGraphDestroy(graph)
            raise
        self.call("cuStreamEndCapture", stream, ctypes.byref(graph))
        try:
            return int(self._out(_HANDLE, "cuGraphInstantiateWithFlags", graph, 0).value or 0)
        finally:
            self.call("cuGraphDestroy", graph)

    def elapsed_ms(self, first: int, second: int) -> float:
        """Milliseconds between two completed events."""
        return float(self._out(ctypes.c_float, "cuEventElapsedTime", first, second).value)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver by name, and raise if it returns an error code."""
        code = getattr(self._library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(code, ctypes.byref(text))
            reason = text.value.decode() if text.value else f"error {code}"
            raise MeasureError(f"CUDA failed in {name}: {reason}.")

    def _out(self, kind: Any, name: str, *arguments: Any) -> Any:
        """Call a function whose first argument is a pointer to its result; return the result."""
        result = kind()
        self.call(name, ctypes.byref(result), *arguments)
        return result

    def _attribute(self, number: int) -> int:
        return int(self._out(ctypes.c_int, "cuDeviceGetAttribute", number, self._device).value)


def main(words: Sequence[str]) -> int:
    """Print UUID, name and compute capability of device 0 as JSON; runs in a child process."""
    with closing(Cuda()) as cuda:
        print(json.dumps([cuda.uuid, cuda.name, *cuda.compute_capability]))
    return 0
