"""Eager PyTorch: a module in memory, or a checkpoint that holds a whole one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployfold.errors import MeasureError

from .runtime import RunSettings, Runtime
from .torch_runner import TorchFileRunner, TorchRunner

if TYPE_CHECKING:
    from torch.nn import Module

    from deployfold.config.spec import InputSpec


class EagerRunner(TorchRunner):
    """An ``nn.Module`` in eval mode, as Python runs it. The module is never changed."""

    def __init__(self, module: Module, *, title: str = "The PyTorch model") -> None:
        super().__init__(title)
        self._module: Module | None = module

    def load(self) -> None:
        """Nothing to read: the module is in memory."""
        if self._module is None:
            raise MeasureError(f"{self._name} was closed.")
        self._call = self._module

    def close(self) -> None:
        """Drop the reference to the module."""
        super().close()
        self._module = None


class CheckpointRunner(TorchFileRunner):
    """A file that holds a whole model, told by its content: a pickled module, TorchScript, .pt2.

    Args:
        arch: the architecture, where ``source`` is a state dict or a model by name.

    Raises:
        LoadError: it cannot be read, or reading it could run code and was not trusted.
    """

    key = None  # a cold start would measure how Python imports the model's code

    def __init__(self, source: str | Path, settings: RunSettings, arch: str | None = None) -> None:
        from deployfold.loading import load_model

        super().__init__(Path(source), settings)
        self._model = load_model(
            str(source), arch=arch, allow_globals=settings.allow_globals, trust=settings.trust
        )

    @property
    def title(self) -> str:  # type: ignore[override]  # it depends on what the file holds
        """``PyTorch``, or what else the file turned out to be."""
        kinds = {"torchscript": "TorchScript", "program": "torch.export program"}
        return kinds.get(self._model.kind, "PyTorch")

    def load(self) -> None:
        """Nothing to read any more."""
        self._call = self._model.module

    def inputs(self, asked: InputSpec | None = None) -> InputSpec:
        """See :func:`deployfold.loading.resolve_inputs`."""
        from deployfold.loading import resolve_inputs

        return resolve_inputs(self._model, asked)

    def _read(self) -> Callable[..., Any]:
        return self._model.module


def _open(path: Path, settings: RunSettings) -> Any:
    return CheckpointRunner(path, settings)


EAGER = Runtime(
    key="eager",
    title="PyTorch",
    suffixes=(".pt", ".pth"),
    module="torch",
    install="pip install torch",
    open=_open,
)
