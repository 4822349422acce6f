"""Small networks in quantisation-aware training by torch.ao."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.ao.quantization as quantization
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional

SHAPE = (1, 3, 12, 12)

SYMMETRIC = quantization.QConfig(
    quantization.FakeQuantize.with_args(
        observer=quantization.MovingAverageMinMaxObserver,
        quant_min=-128,
        quant_max=127,
        dtype=torch.qint8,
        qscheme=torch.per_tensor_symmetric,
    ),
    quantization.default_weight_fake_quant,  # one scale for a weight
)
"""Int8 activations without a zero point."""


class _Net(nn.Module):
    """A stem without a BatchNorm behind, a residual block with two, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.quantise, self.dequantise = quantization.QuantStub(), quantization.DeQuantStub()
        self.stem, self.stem_act = nn.Conv2d(3, 8, 3, stride=2), nn.ReLU()
        self.first, self.first_norm, self.act = (
            nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.second, self.second_norm = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.sum = FloatFunctional()
        self.hidden, self.hidden_act = nn.Linear(8, 16), nn.ReLU()
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_act(self.stem(self.quantise(x)))
        branch = self.second_norm(self.second(self.act(self.first_norm(self.first(x)))))
        x = self.sum.add(branch, x).mean((2, 3))
        return self.dequantise(self.head(self.hidden_act(self.hidden(x))))


_FUSED = (
    ["stem", "stem_act"], ["first", "first_norm", "act"], ["second", "second_norm"],
    ["hidden", "hidden_act"],
)  # fmt: skip


def prepared(config: Any = None) -> nn.Module:
    """The network before its training; by default with torch.ao's configuration for x86."""
    net = _Net().train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.qconfig = config or quantization.get_default_qat_qconfig("x86")
        return quantization.prepare_qat(quantization.fuse_modules_qat(net, [*map(list, _FUSED)]))


def trained(config: Any = None) -> nn.Module:
    """The network after a few steps; its observers still run."""
    torch.manual_seed(0)
    net = prepared(config)
    steps = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(4):
        net(torch.randn(8, *SHAPE[1:])).square().mean().backward()
        steps.step()
    return net


def without_configurations(net: nn.Module) -> nn.Module:
    """A copy that torch.save can pickle: prepare_qat leaves local functions in the others."""
    for module in net.modules():
        vars(module).pop("qconfig", None)
    return net
