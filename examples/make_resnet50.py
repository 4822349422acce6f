"""Write ``resnet50.pt``: torchvision's ResNet-50 as a pickled module.

The weights are torchvision's pretrained ones where the network gives access to them. Otherwise they
are a seeded initialisation, with BatchNorm statistics from a run on seeded data, so that folding
meets numbers of realistic size.

    python examples/make_resnet50.py resnet50.pt
"""

from __future__ import annotations

import sys
import urllib.error
from pathlib import Path

import torch
import torchvision

from deployfold.util.files import atomic_path


def pretrained() -> torch.nn.Module | None:
    """ResNet-50 with torchvision's default weights, or ``None`` without a network."""
    try:
        return torchvision.models.resnet50(weights="DEFAULT", progress=False)
    except (urllib.error.URLError, OSError, RuntimeError):
        return None


def initialised(seed: int = 0) -> torch.nn.Module:
    """ResNet-50 as torchvision initialises it, with measured BatchNorm statistics.

    gamma and beta get the spread of trained networks. A cumulative average over two batches in
    training mode then gives every BatchNorm the statistics of its own inputs.
    """
    torch.manual_seed(seed)
    model = torchvision.models.resnet50(weights=None)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = None
        norm.reset_running_stats()
    with torch.no_grad():
        for _ in range(2):
            model.train()(torch.randn(4, 3, 224, 224))
    for norm in norms:
        norm.momentum = 0.1
    return model


def main() -> None:
    """Write the file named on the command line."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "resnet50.pt")
    model = pretrained()
    if model is None:
        print("No pretrained weights here (no network): a seeded initialisation instead.")
        model = initialised()
    else:
        print("torchvision's pretrained weights.")
    with atomic_path(path) as temporary:
        torch.save(model.eval(), temporary)
    print(f"Wrote {path}.")


if __name__ == "__main__":
    main()
