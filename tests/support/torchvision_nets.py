"""Networks of torchvision with random weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn


def torchvision_model(name: str) -> nn.Module:
    """The network in evaluation mode, with BatchNorm statistics that are not trivial."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    module: nn.Module = getattr(torchvision.models, name)().eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return module
