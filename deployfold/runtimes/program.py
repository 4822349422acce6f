"""``torch.export`` programs (``.pt2``), run by torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .runtime import Runtime
from .torch_runner import TorchFileRunner


class ProgramRunner(TorchFileRunner):
    """A ``torch.export`` program, run as the module it unpacks to."""

    key = "program"
    title = "torch.export program"

    def _read(self) -> Callable[..., Any]:
        import torch

        from deployfold.loading.formats.program import load_program

        if self.settings.trust:
            # With the guards, as the program runs for its users; they are compiled from source
            # text in the file.
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
