"""TorchScript archives, run by torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .runtime import Runtime, Shipping, TritonModel
from .torch_runner import TorchFileRunner


class TorchScriptRunner(TorchFileRunner):
    """A TorchScript archive."""

    key = "torchscript"
    title = "TorchScript"

    def _read(self) -> Callable[..., Any]:
        from deployfold.loading.formats.torchscript import load_torchscript

        return load_torchscript(self._path, trust=self.settings.trust)


TORCHSCRIPT = Runtime(
    key="torchscript",
    title="TorchScript",
    suffixes=(".ts.pt",),
    module="torch",
    install="pip install torch",
    open=TorchScriptRunner,
    triton=TritonModel("pytorch", "pytorch_libtorch", "model.pt"),
    shipping=Shipping("torchscript"),
)
