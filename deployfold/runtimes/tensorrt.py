"""The row of an engine: :class:`.engine_runner.EngineRunner` behind the runners' protocol."""

from __future__ import annotations

from pathlib import Path

import torch

from deployfold.compiling.sidecar import built_for
from deployfold.errors import MeasureError
from deployfold.runtimes.tensorrt_library import CudaGraph, RunOptions

from .cuda import Cuda
from .protocol import Array, Inputs, Step, to_array
from .tensorrt_engine import EngineRunner
from .tensorrt_file import runnable_sidecar


class TensorRTRunner:
    """An engine file with its sidecar ``<engine>.json``, which names the library that built it.

    There is one set of buffers: a step runs on the inputs that were prepared or run last.
    """

    def __init__(self, path: Path, options: RunOptions | None = None) -> None:
        self._path = path
        self._options = options
        self._cuda: Cuda | None = None
        self._runner: EngineRunner | None = None

    def load(self) -> None:
        """Deserialise the engine on the first GPU.

        Raises:
            MeasureError: no GPU or driver here ("built for sm_89; measure it there: …"), the
                library is not installed, or the engine is not for this GPU or library version, by
                its sidecar or by the library's own judgement.
        """
        sidecar = runnable_sidecar(self._path)
        try:
            self._cuda = Cuda()
        except MeasureError as error:
            elsewhere = f"built for {built_for(sidecar)}; measure it there: deployfold bench DIR"
            raise MeasureError(elsewhere, hint=error.message) from error
        self._runner = EngineRunner(self._path, self._cuda, self._options)
        self._runner.load()

    def prepare(self, inputs: Inputs) -> Step:
        """Copy the inputs to pinned memory; see :meth:`.engine_runner.EngineRunner.step`."""
        runner = self._bind(inputs)
        return runner.step

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        """One inference; the outputs in the engine's order."""
        runner = self._bind(inputs)
        runner.step()
        return tuple(runner.outputs().values())

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, in the order of :meth:`run`; the engine must be loaded."""
        return self._loaded().output_names

    @property
    def cuda_graph(self) -> CudaGraph:
        """How the engine's work is launched; known after the first inference."""
        return self._loaded().cuda_graph

    def close(self) -> None:
        """Free what is on the GPU."""
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
        if len(names) != len(inputs):
            raise MeasureError(
                f"{self._path.name} takes {len(names)} inputs, and {len(inputs)} were given."
            )
        arrays = (to_array(one) if isinstance(one, torch.Tensor) else one for one in inputs)
        runner.bind(dict(zip(names, arrays, strict=True)))
        return runner

    def _loaded(self) -> EngineRunner:
        if self._runner is None:
            raise MeasureError(f"{self._path.name} is not loaded.")
        return self._runner


__all__ = ["TensorRTRunner"]
