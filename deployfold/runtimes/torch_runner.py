"""Runs torch callables: the common part of the runtimes for torch's file formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployfold.errors import LoadError, MeasureError

from .device import CPU, is_gpu
from .failures import as_measure_error, check_there
from .settings import RunSettings

if TYPE_CHECKING:
    from deployfold.config.inputs import InputSpec
    from deployfold.util.arrays import Array

    from .protocol import Inputs, Step


class TorchRunner:
    """Runs a torch callable under ``torch.inference_mode`` on the CPU or on a GPU.

    The number of threads is torch's global setting, see ``measuring.latency.torch_threads``.

    Args:
        name: the subject of error messages: ``The PyTorch model`` or ``net.pt2``.
        device: see :class:`.settings.RunSettings`.
        cuda_graph: see :func:`.torch_cuda.cuda_step`.
    """

    def __init__(
        self, name: str, device: str | None = None, *, cuda_graph: bool | None = True
    ) -> None:
        self._name = name
        self._device = device or CPU
        self._cuda_graph = cuda_graph
        self._call: Callable[..., Any] | None = None

    def load(self) -> None:
        """Make the callable ready."""
        raise NotImplementedError

    def prepare(self, inputs: Inputs) -> Step:
        """Copy the inputs; each step is one call under ``inference_mode``.

        On a GPU, CUDA events time it; see :func:`.torch_cuda.cuda_step`.
        """
        import torch

        from .tensors import to_tensors

        call = self._loaded()
        tensors = to_tensors(inputs)
        if is_gpu(self._device):
            from .torch_cuda import cuda_step

            with as_measure_error(f"{self._name} failed"):
                return cuda_step(call, tensors, self._device, cuda_graph=self._cuda_graph)

        def step() -> None:
            with torch.inference_mode():
                call(*tensors)

        return step

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        """Run one call; the tensors of the possibly nested output, in pytree order."""
        import torch
        from torch.utils._pytree import tree_leaves

        from .tensors import to_array, to_tensors

        call = self._loaded()
        with as_measure_error(f"{self._name} failed"), torch.inference_mode():
            values = [value.to(self._device) for value in to_tensors(inputs)]
            leaves = tree_leaves(call(*values))
            return tuple(to_array(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor))

    def close(self) -> None:
        """Drop the model."""
        self._call = None

    def _loaded(self) -> Callable[..., Any]:
        if self._call is None:
            raise MeasureError(f"{self._name} is not loaded.")
        return self._call


class TorchFileRunner(TorchRunner):
    """Runs a file that torch wrote.

    Args:
        settings: ``trust`` allows the file to run code while it is loaded.
    """

    key: str | None
    variant = ""
    title: str

    def __init__(self, path: Path, settings: RunSettings | None = None) -> None:
        self.settings = settings or RunSettings(trust=True)
        super().__init__(path.name, self.settings.device, cuda_graph=self.settings.cuda_graph)
        self._path = path
        self._ready = False

    def load(self) -> None:
        """Read the file onto the device.

        Raises:
            MeasureError: the file cannot be read, or reading it could run code and is not trusted.
        """
        if self._ready:
            return
        check_there(self._path)
        with as_measure_error(f"{self._path.name} cannot be loaded"):
            try:
                if self._call is None or is_gpu(self._device):
                    self._call = self._read()
                self._ready = True
            except LoadError as error:
                raise MeasureError(
                    f"{self._path.name} cannot be loaded: {error.message}", hint=error.hint
                ) from error

    def inputs(self, asked: InputSpec | None = None) -> InputSpec:
        """The inputs of its ``forward``, with shapes from the file or from its first layer.

        Raises:
            LoadError: the file cannot be read, or reading it could run code and is not trusted.
            UsageError: the forward has no such inputs, or their shapes are not known.
        """
        from deployfold.loading import load_model, resolve_inputs

        loaded = load_model(
            str(self._path), allow_globals=self.settings.allow_globals, trust=self.settings.trust
        )
        self._call = loaded.module
        return resolve_inputs(loaded, asked)

    def close(self) -> None:
        """Drop the model."""
        super().close()
        self._ready = False

    def _read(self) -> Callable[..., Any]:
        """Load the file onto the device; inspect it before unless it is trusted."""
        raise NotImplementedError
