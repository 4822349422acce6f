"""Small networks and helpers that the folding tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deployfold.folding import FoldResult, count_batchnorms, fold


class Net(nn.Module):
    """A module whose forward is given as a function of itself and its input."""

    def __init__(self, forward: Callable[..., Any], **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)
        self._function = forward

    def forward(self, *inputs: Tensor) -> Any:
        return self._function(self, *inputs)


def randomise(model: nn.Module, seed: int = 0, *, positive: bool = False) -> nn.Module:
    """Give every BatchNorm statistics and weights that make a wrong fold visible."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is None or not tensor.is_floating_point():
                    continue
                if "BatchNorm" not in type(module).__name__ and name in {"weight", "bias"}:
                    continue
                noise = torch.rand(tensor.shape, generator=generator).to(tensor)
                if name == "running_var" or (name == "weight" and positive):
                    tensor.copy_(noise + 0.5)
                elif name in {"weight", "bias", "running_mean"}:
                    tensor.copy_(2.2 * noise - 1)  # of both signs
    return model.eval()


def device_of(x: Tensor) -> str:
    """The device of ``x``, also if it is the meta device, which a trace hides from a forward."""
    return x.untyped_storage().device.type


def outputs_of(model: nn.Module, *inputs: Tensor) -> list[Tensor]:
    from deployfold.folding.modules import tensors_in

    with torch.no_grad():
        return list(tensors_in(model(*(item.clone() for item in inputs))))


def folded(
    model: nn.Module, *inputs: Tensor, gone: int, left: int = 0, **options: Any
) -> FoldResult:
    """Fold; check the counts, the function, and that the original is unchanged."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = outputs_of(model, *inputs)
    result = fold(model, inputs, **options)
    names = [item.name for item in result.folded if item.kind == "batchnorm"]
    assert len(names) == gone, (names, result.left)
    assert len(result.left) == left, result.left
    assert all(item.reason for item in result.left)
    assert count_batchnorms(result.model) == result.batchnorms_after
    for want, got in zip(expected, outputs_of(result.model, *inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
    assert result.verification.float64_relative is not None
    assert result.verification.float64_relative < 1e-9
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} of the original changed"
    for want, got in zip(expected, outputs_of(model, *inputs), strict=True):
        torch.testing.assert_close(got, want)
    return result


def reason(result: FoldResult) -> str:
    """The reason of the only BatchNorm that was left."""
    (left,) = result.left
    return left.reason
