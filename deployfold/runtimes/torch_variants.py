"""Runs PyTorch models with fp16 weights, and with ``torch.compile``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deployfold.errors import MeasureError

from .aot_inductor import missing_compiler
from .device import is_gpu
from .eager import EagerRunner

if TYPE_CHECKING:
    from torch.nn import Module

    from deployfold.util.arrays import Array

    from .protocol import Inputs, Step


class HalfRunner(EagerRunner):
    """Runs a copy of a module in fp16, on floating-point inputs that are rounded to fp16."""

    def __init__(self, module: Module, *, device: str | None = None) -> None:
        super().__init__(module, title="The model in fp16", device=device)

    def _placed(self, module: Module) -> Callable[..., Any]:
        return copy.deepcopy(module).half().to(self._device)

    def prepare(self, inputs: Inputs) -> Step:
        """Round the inputs, outside the timed step."""
        return super().prepare(_rounded(inputs))

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        """Run one call on rounded inputs."""
        return super().run(_rounded(inputs))


class CompiledRunner(EagerRunner):
    """Runs a module with ``torch.compile``, which compiles it in the first call.

    On the CPU, torch compiles C++ and needs a C++ compiler.
    """

    def __init__(self, module: Module, *, device: str | None = None) -> None:
        super().__init__(module, title="The compiled model", device=device)

    def load(self) -> None:
        """Wrap the module; the first call compiles it.

        Raises:
            MeasureError: the runner was closed, or there is no C++ compiler.
        """
        if not is_gpu(self._device) and (missing := missing_compiler("torch.compile")) is not None:
            raise MeasureError(missing)
        super().load()

    def _placed(self, module: Module) -> Callable[..., Any]:
        import torch

        placed = super()._placed(module)
        compiled: Callable[..., Any] = torch.compile(placed, options={"compile_threads": 1})
        return compiled

    def prepare(self, inputs: Inputs) -> Step:
        """Compile for these inputs, outside the timed step."""
        step = super().prepare(inputs)
        step()
        return step

    def close(self) -> None:
        """Drop the module and torch's compiled code."""
        compiled = self._call is not None
        super().close()
        if compiled:
            import torch

            torch._dynamo.reset()


@dataclass(frozen=True)
class Variant:
    """A further row for an eager module.

    Attributes:
        key: the end of the row's name, behind a hyphen.
        label: the end of the row's title, behind a comma.
        open: makes the runner of a module for the keyword ``device``.
    """

    key: str
    label: str
    open: Callable[..., EagerRunner]


def variants_on(
    device: str | None, *, fp16: bool = False, compiled: bool = False
) -> tuple[Variant, ...]:
    """The further rows of an eager module on a device.

    On a GPU, fp16 always has a row: without deployfold, users would take it.

    Args:
        fp16, compiled: ``--torch-fp16`` and ``--torch-compile``.
    """
    rows = (
        (Variant("fp16", "fp16", HalfRunner), fp16 or is_gpu(device)),
        (Variant("compiled", "torch.compile", CompiledRunner), compiled),
    )
    return tuple(row for row, asked in rows if asked)


def _rounded(inputs: Inputs) -> list[Any]:
    import torch

    from .tensors import to_tensors

    return [
        value.to(torch.float16) if value.is_floating_point() else value
        for value in to_tensors(inputs)
    ]
