"""Runs ``torch.export`` programs (``.pt2``) with torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .device import is_gpu
from .runtime import Runtime
from .torch_runner import TorchFileRunner


class ProgramRunner(TorchFileRunner):
    """Runs a ``torch.export`` program as the module that it unpacks to."""

    key = "program"
    title = "torch.export program"

    def _read(self) -> Callable[..., Any]:
        import torch
        from torch.export.passes import move_to_device_pass

        from deployfold.loading.formats.program import inspect, load_program
        from deployfold.util.shared import ONE_AT_A_TIME

        if is_gpu(self._device):
            if not self.settings.trust:
                inspect(self._path)
            with ONE_AT_A_TIME:
                program = move_to_device_pass(torch.export.load(self._path), self._device)
                return program.module(check_guards=False)
        if self.settings.trust:
            # With the guards, as the program runs for its users; they are compiled from source
            # text in the file.
            with ONE_AT_A_TIME:
                return torch.export.load(self._path).module()
        return load_program(self._path, trust=False)[0]


PROGRAM = Runtime(
    key="program",
    title="torch.export",
    suffixes=(".pt2",),
    module="torch",
    install="pip install torch",
    open=ProgramRunner,
)
