"""Runs TensorRT and TensorRT-RTX engines by the protocol of runners."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployfold.compiling.sidecar import read_sidecar, sidecar_path
from deployfold.errors import MeasureError
from deployfold.targets.compute_capability import dotted
from deployfold.targets.libraries import LIBRARIES

from .cuda import Cuda
from .device import CPU, gpu_index
from .failures import ON_CPU, NoDevice
from .inputs import StatedInput, as_array, check_count, fill
from .layer_times import Profile
from .runtime import Runtime, Shipping, TritonModel
from .settings import RunSettings
from .tail_name import head_reference, tail_name
from .tensorrt_engine import EngineRunner
from .tensorrt_library import CudaGraph
from .tensorrt_load import runnable_sidecar

if TYPE_CHECKING:
    from deployfold.config.inputs import InputSpec
    from deployfold.util.arrays import Array

    from .protocol import Inputs, Step


class TensorRTRunner:
    """Runs an engine file with its sidecar ``<engine>.json``, which names the library.

    The runner has one set of buffers: a step uses the inputs of the latest ``prepare`` or ``run``.
    """

    key: str | None = "tensorrt"
    variant = ""

    def __init__(self, path: Path, settings: RunSettings | None = None) -> None:
        self.settings = settings or RunSettings()
        self._path = path
        self._cuda: Cuda | None = None
        self._runner: EngineRunner | None = None

    @property
    def title(self) -> str:
        """The title of the engine's library: ``TensorRT`` or ``TensorRT-RTX``."""
        return LIBRARIES[read_sidecar(self._path).library].title

    @property
    def device_name(self) -> str | None:
        """The name of the GPU; known once the engine is loaded."""
        return None if self._cuda is None else self._cuda.name

    def load(self) -> None:
        """Deserialise the engine on the GPU of the settings, the first by default.

        Raises:
            NoDevice: this machine has no GPU or no driver.
            MeasureError: the rows run on the CPU, the library is not installed, or the engine is
                not for this GPU and library version.
        """
        if self._runner is not None:
            return
        sidecar = runnable_sidecar(self._path)
        try:
            self._cuda = Cuda(index=gpu_index(self.settings.device))
        except MeasureError as error:
            raise NoDevice(sidecar.built_for, error.message) from error
        if self.settings.device == CPU:
            raise MeasureError(ON_CPU)
        self._runner = EngineRunner(self._path, self._cuda, self.settings)
        self._runner.load()

    def prepare(self, inputs: Inputs) -> Step:
        """Copy the inputs to pinned memory; see :meth:`.tensorrt_engine.EngineRunner.step`."""
        return self._bind(inputs).step

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        """Run one inference; the outputs in the engine's order."""
        runner = self._bind(inputs)
        runner.step()
        return tuple(runner.outputs().values())

    def inputs(self, asked: InputSpec | None = None) -> InputSpec:
        """The engine's inputs, in the opt shapes of its first optimization profile.

        Raises:
            MeasureError: the engine or its sidecar is missing or damaged.
            UsageError: the sidecar does not list the inputs, or the engine has no such input.
        """
        runnable_sidecar(self._path)
        return fill(self.stated, asked, self._path.name)

    @property
    def stated(self) -> tuple[StatedInput, ...]:
        """The inputs that the sidecar lists.

        Raises:
            UsageError: the sidecar does not list the inputs.
        """
        return stated_inputs(self._path)

    @property
    def onnx(self) -> Path | None:
        """The ONNX that the engine was built from, by its sidecar; it may not be there."""
        name = read_sidecar(self._path).onnx
        return None if name is None else self._path.with_name(name)

    def profile(self, inputs: Inputs, calls: int) -> Profile:
        """The time of each layer; see :class:`.layer_times.LayerProfiler`.

        The engine is loaded once more, because a CUDA graph hides its layers.
        """
        self._loaded()
        plain = TensorRTRunner(self._path, replace(self.settings, cuda_graph=False))
        plain.load()
        try:
            return plain._bind(inputs).profile(calls)
        finally:
            plain.close()

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, in the order of :meth:`run`; the engine must be loaded."""
        return self._loaded().output_names

    @property
    def cuda_graph(self) -> CudaGraph:
        """How the engine's work is launched; known after the first inference."""
        return self._loaded().cuda_graph

    def close(self) -> None:
        """Free the engine and its memory on the GPU."""
        runner, cuda = self._runner, self._cuda
        self._runner = self._cuda = None
        try:
            if runner is not None:
                runner.close()
        finally:
            if cuda is not None:
                cuda.close()

    def _bind(self, inputs: Inputs) -> EngineRunner:
        runner = self._loaded()
        names = runner.input_names
        check_count(self._path.name, len(names), len(inputs))
        runner.bind(dict(zip(names, map(as_array, inputs), strict=True)))
        return runner

    def _loaded(self) -> EngineRunner:
        if self._runner is None:
            raise MeasureError(f"{self._path.name} is not loaded.")
        return self._runner


def stated_inputs(path: Path) -> tuple[StatedInput, ...]:
    """The inputs of an engine that its sidecar lists, with the first profile's opt shapes.

    Raises:
        MeasureError: there is no readable sidecar.
        UsageError: the sidecar does not list the inputs.
    """
    tensors = read_sidecar(path).tensors(path)
    ranges = {one.name: one for one in (tensors.profiles or ((),))[0]}
    stated = []
    for one in tensors.inputs:
        profile = ranges.get(one.name)
        usual = tuple(max(1, size) for size in one.shape) if profile is None else profile.opt
        stated.append(
            StatedInput(
                name=one.name,
                dtype=one.dtype,
                shape=tuple(None if size < 0 else size for size in one.shape),
                smallest=usual if profile is None else profile.min,
                usual=usual,
            )
        )
    return tuple(stated)


def _sidecars(path: Path) -> tuple[str, ...]:
    names = (sidecar_path(path).name, tail_name(path.name), head_reference(path.name))
    return tuple(name for name in names if name is not None)


def _open(path: Path, settings: RunSettings) -> Any:
    from .tail import with_tail

    return with_tail(TensorRTRunner(path, settings), path)


def _facts(path: Path) -> dict[str, Any]:
    sidecar = read_sidecar(path)
    if not sidecar.describes(path):
        raise MeasureError(f"{path} is not the engine in its sidecar.", hint="Build it again.")
    return {
        "compute_capabilities": tuple(map(dotted, sidecar.compute_capabilities)),
        "library": sidecar.library,
        "library_version": sidecar.library_version or None,
    }


TENSORRT = Runtime(
    key="tensorrt",
    title="TensorRT",
    suffixes=(".engine",),
    module="tensorrt",
    install=LIBRARIES["tensorrt"].install,
    install_needs="an NVIDIA GPU to build with",
    open=_open,
    optional=True,
    needs_torch=False,
    states_inputs=True,
    triton=TritonModel("tensorrt", "tensorrt_plan", "model.plan", gpu_only=True),
    shipping=Shipping("engine", sidecars=_sidecars, facts=_facts),
)
