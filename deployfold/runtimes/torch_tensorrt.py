"""Runs a ``.pt2`` with TensorRT engines inside, in the form that torch-tensorrt saves."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployfold.compiling.torch_tensorrt.compile import INSTALL
from deployfold.errors import MeasureError, UsageError

from .device import CPU
from .failures import ON_CPU
from .runtime import Runtime
from .settings import RunSettings
from .torch_runner import TorchFileRunner

if TYPE_CHECKING:
    from deployfold.config.inputs import InputSpec


_GPU = "cuda:0"
"""The GPU that the compiler of such a file used: the first of its process."""


class TorchTensorRTRunner(TorchFileRunner):
    """Runs an exported program with engines inside, on the GPU that it was compiled for.

    Args:
        path: the output of :func:`~deployfold.compiling.torch_tensorrt.compile.
            compile_torch_tensorrt`.
    """

    key: str | None = "torch_tensorrt"
    title = "torch-tensorrt"

    def __init__(self, path: Path, settings: RunSettings | None = None) -> None:
        super().__init__(path, settings or RunSettings())
        self._on_cpu = self.settings.device == CPU
        self._device = _GPU
        self._cuda_graph = None

    def load(self) -> None:
        """Import torch-tensorrt, which registers the engines' class, and read the program.

        Raises:
            MeasureError: this machine has no GPU, torch-tensorrt cannot be imported, or the program
                cannot be read.
        """
        import torch

        if self._on_cpu:
            raise MeasureError(ON_CPU)
        if not torch.cuda.is_available():
            raise MeasureError(f"{self._path.name} runs only on the GPU that it was compiled for.")
        super().load()

    def inputs(self, asked: InputSpec | None = None) -> InputSpec:
        """The requested inputs, because the file can be read only on a machine with its GPU.

        Raises:
            UsageError: no inputs were requested.
        """
        if asked is None:
            raise UsageError(
                f"{self._path.name} does not list its inputs on a machine without its GPU.",
                hint="Add --input for each, for example --input x.npy.",
            )
        return asked

    def _read(self) -> Callable[..., Any]:
        import torch

        import_module("torch_tensorrt")
        return torch.export.load(self._path).module()


TORCH_TENSORRT = Runtime(
    key="torch_tensorrt",
    title="torch-tensorrt",
    suffixes=(".trt.pt2",),
    module="torch_tensorrt",
    install=INSTALL,
    install_needs="an NVIDIA driver",
    open=TorchTensorRTRunner,
    optional=True,
)
