"""How long folding takes, against ``torch.fx``'s ``fuse``; and what the folded net is worth.

    python tests/benchmarks/fold_speed.py [rounds]

Prints four comparisons, each interleaved in one run on one core, as the median of the ratios of
the rounds with the first and third quartile:

* folding ResNet-50 with its proof, which is what a user waits for, against ``fuse``;
* folding it without the proof, since ``fuse`` has none, against ``fuse``;
* one forward of the folded net against the same net with each BatchNorm replaced by an Identity,
  the physical limit;
* peak memory of folding, over the size of the parameters.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn
from torch.fx.experimental.optimization import fuse

from deployfold.folding import fold
from deployfold.folding.graph.trace import trace
from deployfold.folding.modules import copy_modules
from deployfold.folding.rewrite.rewrite import apply
from deployfold.folding.rules.match import match


def fold_alone(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> nn.Module:
    """Folding without proof: what is compared with ``fuse``."""
    plan = match(trace(model, inputs), model)
    return apply(plan, copy_modules(model, share_parameters=False))


def net(name: str) -> nn.Module:
    """A torchvision net with statistics that keep activations of usual size."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def ratios(
    first: Callable[[], object], second: Callable[[], object], rounds: int
) -> tuple[float, float, float]:
    """Quartiles of time(first) / time(second), the two in turns; median in the middle."""
    found = []
    for _ in range(rounds + 2):
        times = []
        for function in (first, second):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        found.append(times[0] / times[1])
    low, middle, high = np.percentile(found[2:], [25, 50, 75])
    return float(low), float(middle), float(high)


def without_norms(model: nn.Module) -> nn.Module:
    """The same net with each BatchNorm replaced by an Identity, biases kept as they are."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return model


def peak_memory(name: str) -> float:
    """Peak resident memory that folding adds, over the bytes of the parameters; own process."""
    code = (
        "import torch, sys; sys.path.insert(0, 'tests/benchmarks');"
        "torch.set_num_threads(1); import fold_speed as f;"
        f"m = f.net({name!r}); x = (torch.randn(1, 3, 64, 64),);"
        "size = sum(p.numel() * p.element_size() for p in m.parameters());"
        "small = f.net('resnet18'); f.fold_alone(small, x);"  # what libraries allocate once
        "torch.inference_mode()(m)(*x);"
        "before = f.resident('VmRSS'); open('/proc/self/clear_refs', 'w').write('5');"
        "folded = f.fold_alone(m, x);"
        "print((f.resident('VmHWM') - before) * 1024 / size + 1)"  # the original is there already
    )
    return float(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    )


def resident(field: str) -> int:
    """VmRSS, the resident memory, or VmHWM, its peak since it was last reset; in KiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    """Run and print all comparisons."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    torch.set_num_threads(1)
    model, inputs = net("resnet50"), (torch.randn(1, 3, 224, 224),)
    small = (torch.randn(1, 3, 64, 64),)
    for what, function in (("fold with proof", fold), ("fold, proof apart", fold_alone)):
        for given in (inputs, small):
            low, middle, high = ratios(
                lambda function=function, given=given: function(model, given),
                lambda: fuse(copy.copy(model)),
                rounds,
            )
            shape = "x".join(map(str, given[0].shape))
            quartiles = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
            print(f"{what} / torch.fx fuse, ResNet-50, {shape}: {quartiles}", flush=True)
    with torch.inference_mode():
        for name in ("resnet50", "mobilenet_v2", "vgg16_bn"):
            model = net(name)
            folded, limit = fold(model, small).model, without_norms(model)
            low, middle, high = ratios(
                lambda folded=folded: folded(*inputs), lambda limit=limit: limit(*inputs), rounds
            )
            print(f"folded / Identity, {name}: {middle:.3f} [{low:.3f}, {high:.3f}]")
    for name in ("resnet50", "vgg16_bn"):
        print(f"peak memory of folding / parameters, {name}: {peak_memory(name):.2f}")


if __name__ == "__main__":
    main()
