"""Hides the meta device from a traced model, so that the model takes its usual branches."""

from __future__ import annotations

from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch

from deployfold.folding.modules import tensors_in


class Devices:
    """The device on which a model really computes, in the place of the meta device.

    Code outside torch that asks for the device of a meta tensor gets the real device, and a call of
    torch that is given the real device gets the meta device. Torch's own code sees the truth.
    """

    def __init__(self, model: torch.nn.Module, samples: Sequence[Any]) -> None:
        tensors = (*tensors_in(list(samples)), *model.parameters(), *model.buffers())
        self._real = next((tensor.device for tensor in tensors), torch.device("cpu"))
        self._answers = {
            "device": self._real,
            "get_device": -1 if self._real.index is None else self._real.index,
            "is_meta": False,
            f"is_{self._real.type}": True,
        }

    def answer(self, func: Any, args: Sequence[Any], frame: FrameType) -> Any:
        """What a tensor says about its device; None if ``func``, called in ``frame``, asks else."""
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = getattr(func.__self__, "__name__", "")
        if name not in self._answers or not args or not args[0].is_meta:
            return None
        if frame.f_globals.get("__name__", "").partition(".")[0] == "torch":
            return None
        return self._answers[name]

    def on_meta(
        self, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a function of torch, with the meta device for the real one."""
        return tuple(map(self._shown, args)), {key: self._shown(kwargs[key]) for key in kwargs}

    def _shown(self, item: Any) -> Any:
        same = type(item) is torch.device and item.type == self._real.type
        return torch.device("meta") if same else item
