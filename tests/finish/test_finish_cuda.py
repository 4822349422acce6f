"""The calls of CUDA's driver API, against a driver in C whose device is the host."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from deployfold.errors import MeasureError
from deployfold.finish.cuda import Cuda

COMPILER = shutil.which("cc") or shutil.which("gcc")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("driver") / "libdriver.so"
    source = Path(__file__).with_name("driver.c")
    words = [str(COMPILER), "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(path), str(source)]
    subprocess.run(words, check=True)
    return str(path)


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


def test_a_library_that_is_no_driver_is_too_old() -> None:
    with pytest.raises(MeasureError, match="has no cuInit"):
        Cuda("libc.so.6")
    with pytest.raises(MeasureError, match="no NVIDIA driver"):
        Cuda("libno-such-driver.so")
