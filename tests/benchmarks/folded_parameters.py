"""Counts the BatchNorms and parameters that folding removes from two nets of torchvision.

python tests/benchmarks/folded_parameters.py
"""

from __future__ import annotations

import torch
import torchvision

from deployfold.folding import fold


def main() -> None:
    """Fold both nets, with random weights, and print what is gone."""
    for name, title in (("resnet50", "ResNet-50"), ("vgg16_bn", "VGG16-bn")):
        model = torchvision.models.get_model(name, weights=None).eval()
        before = sum(parameter.numel() for parameter in model.parameters())
        result = fold(model, (torch.randn(1, 3, 32, 32),))
        fewer = before - sum(parameter.numel() for parameter in result.model.parameters())
        norms = len(result.folded) + len(result.left)
        print(
            f"{title}: {len(result.folded)} of {norms} BatchNorm folded, {fewer:,} parameters fewer"
        )


if __name__ == "__main__":
    main()
