"""The calls of CUDA's driver API, against a driver in C whose device is the host."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from deployfold.errors import MeasureError
from deployfold.runtimes.cuda import Cuda


def test_the_device_is_described(library: str) -> None:
    cuda = Cuda(library)
    assert cuda.name == "Orin"
    assert cuda.compute_capability == (8, 7)
    assert cuda.uuid == "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"
    cuda.close()
    cuda.close()
    assert ctypes.CDLL(library).live_objects() == 0


def test_data_goes_to_the_device_and_back_and_all_memory_is_given_back(library: str) -> None:
    cuda = Cuda(library)
    stream, first, second = cuda.stream(), cuda.event(), cuda.event()
    data = np.arange(100, dtype=np.float32)
    host, array = cuda.pinned(data.nbytes)
    back, result = cuda.pinned(data.nbytes)
    device = cuda.device_memory(data.nbytes)
    array.view(np.float32)[:] = data
    cuda.call("cuEventRecord", first, stream)
    cuda.call("cuMemcpyHtoDAsync_v2", device, host, data.nbytes, stream)
    cuda.call("cuMemcpyDtoHAsync_v2", back, device, data.nbytes, stream)
    cuda.call("cuEventRecord", second, stream)
    cuda.call("cuStreamSynchronize", stream)
    np.testing.assert_array_equal(result.view(np.float32), data)
    assert cuda.elapsed_ms(first, second) == 1.0
    for address in (host, back):
        cuda.free_pinned(address)
    cuda.free_device(device)
    for event in (first, second):
        cuda.call("cuEventDestroy_v2", event)
    cuda.call("cuStreamDestroy_v2", stream)
    cuda.close()
    assert ctypes.CDLL(library).live_objects() == 0


def test_nothing_can_be_allocated_too(library: str) -> None:
    cuda = Cuda(library)
    address, array = cuda.pinned(0)
    assert array.size == 0
    cuda.free_pinned(address)
    cuda.close()


def test_a_failure_has_cudas_name_for_it(library: str) -> None:
    cuda = Cuda(library)
    with pytest.raises(MeasureError, match="cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY"):
        cuda.device_memory(1 << 41)
    with pytest.raises(MeasureError, match="error 1"):
        cuda.call("cuInit", 1)
    cuda.close()


def test_a_context_stays_current_while_anyone_holds_it(library: str) -> None:
    first, second = Cuda(library), Cuda(library)
    first.close()
    second.free_device(second.device_memory(1))
    second.close()
    assert ctypes.CDLL(library).has_context() == 0, "CUDA destroyed it"
    third = Cuda(library)
    third.free_device(third.device_memory(1))
    third.close()


def test_a_captured_graph_does_its_work_when_it_is_launched(library: str) -> None:
    cuda = Cuda(library)
    stream = cuda.stream()
    host, array = cuda.pinned(4)
    device = cuda.device_memory(4)
    back, result = cuda.pinned(4)
    array[:], result[:] = 7, 0

    def work() -> None:
        cuda.call("cuMemcpyHtoDAsync_v2", device, host, 4, stream)
        cuda.call("cuMemcpyDtoHAsync_v2", back, device, 4, stream)

    graph = cuda.capture(stream, work)
    assert not result.any()
    for value in (7, 9):
        array[:] = value
        cuda.call("cuGraphLaunch", graph, stream)
        assert (result == value).all()
    cuda.call("cuGraphExecDestroy", graph)
    release(cuda, library, stream, device, host, back)


@pytest.mark.parametrize("where", ["in the work", "at the end"])
def test_a_capture_that_fails_leaves_the_stream_as_it_was(library: str, where: str) -> None:
    cuda, driver = Cuda(library), ctypes.CDLL(library)
    stream, device = cuda.stream(), cuda.device_memory(4)
    host, array = cuda.pinned(4)

    def work() -> None:
        cuda.call("cuMemcpyHtoDAsync_v2", device, host, 4, stream)
        if where == "in the work":
            cuda.call("cuStreamSynchronize", stream)  # no stream can wait while it captures

    driver.let_captures_fail(where == "at the end")
    try:
        with pytest.raises(MeasureError, match=r"INVALIDATED|cuStreamSynchronize: error 900"):
            cuda.capture(stream, work)
    finally:
        driver.let_captures_fail(False)
    array[:] = 3
    cuda.call("cuMemcpyHtoDAsync_v2", device, host, 4, stream)
    cuda.call("cuStreamSynchronize", stream)
    assert ctypes.string_at(device, 4) == bytes([3] * 4), "it ran at once"
    release(cuda, library, stream, device, host)


def release(cuda: Cuda, library: str, stream: int, device: int, *pinned: int) -> None:
    """Free everything, and check that nothing is left."""
    for address in pinned:
        cuda.free_pinned(address)
    cuda.free_device(device)
    cuda.call("cuStreamDestroy_v2", stream)
    cuda.close()
    assert ctypes.CDLL(library).live_objects() == 0


def test_a_library_without_the_drivers_functions_is_too_old() -> None:
    with pytest.raises(MeasureError, match="has no cuInit"):
        Cuda("libc.so.6")
    with pytest.raises(MeasureError, match="no NVIDIA driver"):
        Cuda("libno-such-driver.so")
