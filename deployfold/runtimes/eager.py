"""Eager PyTorch: runs a module in memory, or a checkpoint that contains a whole model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployfold.errors import MeasureError

from .device import is_gpu
from .failures import as_measure_error
from .runtime import Runtime
from .settings import RunSettings
from .torch_runner import TorchFileRunner, TorchRunner

if TYPE_CHECKING:
    from torch.nn import Module

    from deployfold.config.inputs import InputSpec


class EagerRunner(TorchRunner):
    """Runs an ``nn.Module`` in evaluation mode, without changing it.

    Args:
        title: the subject of error messages.
        device: the device to run on; a GPU runs a copy of the module.
        cuda_graph: on a GPU, launch a call as one CUDA graph, if it can be captured.
    """

    def __init__(
        self,
        module: Module,
        *,
        title: str = "The PyTorch model",
        device: str | None = None,
        cuda_graph: bool = True,
    ) -> None:
        super().__init__(title, device, cuda_graph=cuda_graph)
        self._module: Module | None = module

    def load(self) -> None:
        """Take the module, or a copy of it on the GPU.

        Raises:
            MeasureError: the runner was closed, or the GPU's memory is too small.
        """
        if self._module is None:
            raise MeasureError(f"{self._name} was closed.")
        if self._call is None:
            with as_measure_error(f"{self._name} cannot be loaded"):
                self._call = self._placed(self._module)

    def _placed(self, module: Module) -> Callable[..., Any]:
        """The callable of the runner: the module, or a copy of it on the GPU."""
        return on_device(module, self._device)

    def close(self) -> None:
        """Drop the reference to the module."""
        super().close()
        self._module = None


def on_device(module: Module, device: str) -> Module:
    """``module`` itself for the CPU; for a GPU, a copy on that GPU."""
    return copy.deepcopy(module).to(device) if is_gpu(device) else module


class CheckpointRunner(TorchFileRunner):
    """Runs a file that contains a whole model: a pickled module, TorchScript or ``.pt2``.

    Args:
        source: the file. Its content decides its kind.

    Raises:
        LoadError: the file cannot be read, or reading it could run code and is not trusted.
    """

    key = None  # a cold start would measure how Python imports the model's code

    def __init__(self, source: Path, settings: RunSettings) -> None:
        from deployfold.loading import load_model

        super().__init__(source, settings)
        self._model = load_model(
            str(source), allow_globals=settings.allow_globals, trust=settings.trust
        )

    @property
    def title(self) -> str:  # type: ignore[override]  # the title depends on the file's content
        """``PyTorch``, ``TorchScript`` or ``torch.export program``, by the file's content."""
        kinds = {"torchscript": "TorchScript", "program": "torch.export program"}
        return kinds.get(self._model.kind, "PyTorch")

    @property
    def eager_module(self) -> Module | None:
        """The module that Python runs; ``None`` for TorchScript and exported programs."""
        return None if self._model.compiled else self._model.module

    def inputs(self, asked: InputSpec | None = None) -> InputSpec:
        """See :func:`deployfold.loading.resolve_inputs`."""
        from deployfold.loading import resolve_inputs

        return resolve_inputs(self._model, asked)

    def _read(self) -> Callable[..., Any]:
        return on_device(self._model.module, self._device)


EAGER = Runtime(
    key="eager",
    title="PyTorch",
    suffixes=(".pt", ".pth"),
    module="torch",
    install="pip install torch",
    open=CheckpointRunner,
)
