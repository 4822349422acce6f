"""Reads a GPU's clocks, temperature, power and throttle reasons by NVML.

NVML ships with the driver, and its Python binding ``pynvml`` with the package ``nvidia-ml-py``.
Without either, the state is unknown.
"""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Any

from deployfold.reporting.row import GpuState
from deployfold.runtimes.cuda import Cuda

THROTTLE_REASONS = {
    0x04: "the power limit",
    0x08: "a hardware slowdown",
    0x20: "its temperature (software limit)",
    0x40: "its temperature (hardware limit)",
    0x80: "an external power brake",
}
"""Bits of ``nvmlClocksEventReasons`` (nvml.h) that slow down a busy GPU. The dictionary omits idle
(0x01), clocks set by the user (0x02), sync boost (0x10) and the display's setting (0x100)."""


def gpu_state(index: int) -> GpuState | None:
    """The state of the CUDA device with this index among those that CUDA shows.

    The result is ``None`` without ``pynvml``, a driver or such a GPU.
    """
    try:
        import pynvml  # pyright: ignore[reportMissingImports]

        pynvml.nvmlInit()
    except Exception:  # not installed, or no driver
        return None
    try:
        return _read(pynvml, pynvml.nvmlDeviceGetHandleByUUID(_uuid(index)))
    except Exception:  # no such GPU
        return None
    finally:
        with suppress(Exception):
            pynvml.nvmlShutdown()


def throttle_reasons(bits: int) -> tuple[str, ...]:
    """The words of :data:`THROTTLE_REASONS` for a bit mask of clock event reasons."""
    return tuple(words for bit, words in THROTTLE_REASONS.items() if bits & bit)


def _uuid(index: int) -> str:
    # CUDA_VISIBLE_DEVICES affects CUDA's numbers but not NVML's; only the UUID is common to both.
    with closing(Cuda(index=index)) as cuda:
        return cuda.uuid


def _read(nvml: Any, handle: Any) -> GpuState:
    def ask(name: str, *arguments: Any) -> int | None:
        try:
            return int(getattr(nvml, name)(handle, *arguments))
        except Exception:  # the GPU does not support the query, or this pynvml lacks it
            return None

    power, limit = ask("nvmlDeviceGetPowerUsage"), ask("nvmlDeviceGetEnforcedPowerLimit")
    bits = ask("nvmlDeviceGetCurrentClocksEventReasons")
    if bits is None:
        bits = ask("nvmlDeviceGetCurrentClocksThrottleReasons")  # the name before driver 535
    return GpuState(
        sm_clock_mhz=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        max_sm_clock_mhz=ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        temperature_c=ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        power_w=None if power is None else power / 1000,  # NVML counts in milliwatts
        power_limit_w=None if limit is None else limit / 1000,
        throttled_by=throttle_reasons(bits or 0),
    )
