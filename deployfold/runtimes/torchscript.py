"""Runs TorchScript archives with torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .device import is_gpu
from .runtime import Runtime, Shipping, TritonModel
from .torch_runner import TorchFileRunner


class TorchScriptRunner(TorchFileRunner):
    """Runs a TorchScript archive."""

    key = "torchscript"
    title = "TorchScript"

    def _read(self) -> Callable[..., Any]:
        from deployfold.loading.formats.torchscript import load_torchscript

        loaded: Callable[..., Any] = load_torchscript(self._path, trust=self.settings.trust)
        if is_gpu(self._device):
            import torch

            from deployfold.util.quiet import TORCHSCRIPT_IS_FINE

            # Constants of a frozen module stay where they are when it is moved.
            with TORCHSCRIPT_IS_FINE.made():
                loaded = torch.jit.load(str(self._path), map_location=self._device).eval()  # type: ignore[no-untyped-call]
        return loaded


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
