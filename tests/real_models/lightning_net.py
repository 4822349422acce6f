"""A user's own LightningModule: a net, a loss with weights, and a dict for an output."""

from __future__ import annotations

from typing import Any

import pytorch_lightning
import torch
import torchvision


class Classifier(pytorch_lightning.LightningModule):
    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = torchvision.models.resnet18(num_classes=4)
        self.loss = torch.nn.CrossEntropyLoss(weight=torch.ones(4))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.net(x)}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())
