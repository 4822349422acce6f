"""Every function of CUDA's driver that is called, against NVIDIA's own ``cuda.h``."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployfold.runtimes import cuda

SIZES = {
    "CUdeviceptr": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    "unsigned int": ctypes.c_uint,
    "unsigned long long": ctypes.c_ulonglong,
    "int": ctypes.c_int,
    "CUdevice": ctypes.c_int,
    "CUresult": ctypes.c_int,
    "CUdevice_attribute": ctypes.c_int,
    "CUstreamCaptureMode": ctypes.c_int,
}
"""What ``cuda.h`` passes by value; an enum is an int. All else is a pointer or a handle."""
CONSTANTS = {
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": cuda._MAJOR,
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": cuda._MINOR,
    "CU_STREAM_NON_BLOCKING": cuda._NON_BLOCKING,
    "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": cuda._THREAD_LOCAL,
}
OLDER = {"cuDeviceGetUuid", "cuEventElapsedTime"}
"""Called by the name that every driver has; a newer one has the same arguments."""


def headers() -> Iterator[Path]:
    """``cuda.h`` as the packages that torch brings have it."""
    for package, pattern in (("nvidia", "*/include/cuda.h"), ("triton", "**/include/cuda.h")):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield from Path(folder).glob(pattern)


@pytest.fixture(scope="module")
def header() -> str:
    found = next(headers(), None)
    if found is None:
        pytest.skip("no package here has cuda.h")
    return re.sub(r"/\*.*?\*/", "", found.read_text(encoding="utf-8"), flags=re.S)


def kind(parameter: str) -> Any:
    words = parameter.replace("const ", "").split()
    pointer = "*" in parameter
    return ctypes.c_void_p if pointer else SIZES.get(" ".join(words[:-1]), ctypes.c_void_p)


def plain(argument: Any) -> Any:
    return ctypes.c_void_p if argument is ctypes.c_char_p else argument


@pytest.mark.parametrize("name", cuda._SIGNATURES)
def test_a_function_takes_what_it_is_given(header: str, name: str) -> None:
    base = name.removesuffix("WithFlags").removesuffix("_v2")
    macro = re.search(rf"#define {base}\s+(?:__CUDA_API_PT\w+\()?(\w+)", header)
    exported = macro[1] if macro else base
    assert exported == name or name in OLDER
    declared = re.findall(rf"CUresult CUDAAPI {base}\(([^;]*)\);", header)
    kinds = [tuple(kind(one.strip()) for one in text.split(",")) for text in declared]
    assert tuple(map(plain, cuda._SIGNATURES[name])) in kinds


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_is_the_headers(header: str, name: str) -> None:
    found = re.search(rf"\b{name}\s*=\s*(0x)?(\d+)", header)
    assert found is not None
    assert int(found[2], 16 if found[1] else 10) == CONSTANTS[name]


def test_pinned_memory_is_for_every_context(header: str) -> None:
    found = re.search(r"#define CU_MEMHOSTALLOC_PORTABLE\s+0x(\d+)", header)
    assert found is not None
    assert int(found[1], 16) == cuda._PORTABLE
