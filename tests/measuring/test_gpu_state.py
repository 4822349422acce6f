"""NVML's answers become the report's words; a stand-in for pynvml answers, so no GPU is needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deployfold.measuring.gpu import _read, gpu_state, throttle_reasons
from deployfold.reporting.row import GpuState


def nvml(**answers: Any) -> SimpleNamespace:
    def unsupported(*_: object) -> int:
        raise RuntimeError("Not Supported")

    names = (
        "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetMaxClockInfo",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
    )
    functions = {name: unsupported for name in names}  # noqa: C420
    functions |= {name: lambda *_, value=value: value for name, value in answers.items()}
    return SimpleNamespace(NVML_CLOCK_SM=1, NVML_TEMPERATURE_GPU=0, **functions)


def test_units_and_reasons() -> None:
    state = _read(
        nvml(
            nvmlDeviceGetClockInfo=1410,
            nvmlDeviceGetMaxClockInfo=1980,
            nvmlDeviceGetTemperature=54,
            nvmlDeviceGetPowerUsage=210_500,
            nvmlDeviceGetEnforcedPowerLimit=300_000,
            nvmlDeviceGetCurrentClocksEventReasons=0x04 | 0x01,
        ),
        None,
    )
    assert state == GpuState(
        sm_clock_mhz=1410,
        max_sm_clock_mhz=1980,
        temperature_c=54,
        power_w=210.5,
        power_limit_w=300.0,
        throttled_by=("the power limit",),
    )


def test_an_older_driver_and_questions_without_an_answer() -> None:
    state = _read(nvml(nvmlDeviceGetCurrentClocksThrottleReasons=0x40), None)
    assert state == GpuState(throttled_by=("its temperature (hardware limit)",))


def test_clocks_that_the_user_locked_or_an_idle_gpu_are_no_throttling() -> None:
    assert throttle_reasons(0x01 | 0x02 | 0x10 | 0x100) == ()
    assert len(throttle_reasons(0xFFF)) == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests the answer without a GPU")
def test_without_a_gpu_there_is_nothing_to_say() -> None:
    assert gpu_state(0) is None
