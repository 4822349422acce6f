"""Skips with its reason what needs a GPU, and shares one network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from gpu_nets import GpuNet, make_gpu_net, only, request_on

from deployfold.compiling.records import EngineArtifact, NoEngine
from deployfold.compiling.tensorrt.compile import compile_engine
from deployfold.config.engine import EngineOptions
from deployfold.config.precision import Precision
from deployfold.targets.libraries import Library
from deployfold.targets.machine import Machine
from deployfold.targets.machine import detect as detect_machine

Build = Callable[..., EngineArtifact]


@pytest.fixture(scope="session")
def machine() -> Machine:
    """This machine, which has a GPU."""
    found = detect_machine()
    if found.gpu is None:
        pytest.skip("needs an NVIDIA GPU with its driver")
    return found


@pytest.fixture(scope="session")
def gpu_net(tmp_path_factory: pytest.TempPathFactory) -> GpuNet:
    return make_gpu_net(tmp_path_factory.mktemp("gpu"))


@pytest.fixture
def build(machine: Machine, gpu_net: GpuNet, tmp_path: Path) -> Build:
    """Build the network with one library for the GPU here, or skip with why it cannot."""

    def make(
        library: Library,
        precision: Precision = Precision.FP32,
        options: EngineOptions | None = None,
        name: str = "net.engine",
    ) -> EngineArtifact:
        if getattr(machine, library) is None:
            pytest.skip(f"{library} is not installed")
        request = request_on(only(machine, library), precision, options)
        if isinstance(request, NoEngine):
            pytest.skip(request.reason)
        assert dataclasses.replace(request, library=library) == request
        return compile_engine(gpu_net.onnx[precision], tmp_path / name, request)

    return make
