"""Compares the time of folding, and the speed of the folded net, with ``torch.fx``'s ``fuse``.

    python tests/benchmarks/fold_speed.py [rounds]

Prints these; comparisons are interleaved in one run on one core, as the median of the ratios of
the rounds with the first and third quartile:

* folding ResNet-50 with its proof, which is what a user waits for, against ``fuse``;
* folding it without the proof, since ``fuse`` has none, against ``fuse``;
* one forward of the folded net against the same net with each BatchNorm replaced by an Identity,
  the physical limit;
* peak memory of folding, without and with the proof, over the size of the parameters;
* CPU time of the whole command ``deployfold fold resnet50.pt -o out.pt`` over that of a script that
  does the same by ``fuse``, without a proof: imports, loading, one comparison, saving;
* the same of ``deployfold build resnet50.pt --fp16 --no-measure`` and a script that calls the same
  libraries without a check (needs TensorRT-RTX);
* the CPU time of planning for nets of 250 to 4,000 layers, with the exponent that fits it, and for
  DenseNet-201.
"""

from __future__ import annotations

import copy
import os
import resource
import subprocess
import sys
import tempfile
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
    """A torchvision net whose statistics keep the activations in a usual range."""
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
    """The same net with an Identity in place of each BatchNorm; the biases stay."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return model


def peak_memory(name: str, proved: bool) -> float:
    """Peak resident memory that folding adds, over the bytes of the parameters; own process."""
    how = "fold" if proved else "fold_alone"
    code = (
        "import torch, sys; sys.path.insert(0, 'tests/benchmarks');"
        "torch.set_num_threads(1); import fold_speed as f;"
        f"m = f.net({name!r}); x = (torch.randn(1, 3, 64, 64),);"
        "size = sum(p.numel() * p.element_size() for p in m.parameters());"
        "small = f.net('resnet18'); f.fold_alone(small, x);"  # what libraries allocate once
        "torch.inference_mode()(m)(*x);"
        "before = f.resident('VmRSS'); open('/proc/self/clear_refs', 'w').write('5');"
        f"folded = f.{how}(m, x);"
        "print((f.resident('VmHWM') - before) * 1024 / size + 1)"  # the original is there already
    )
    return float(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    )


_FOLD_BY_HAND = """
import sys, torch, torchvision
from torch.fx.experimental.optimization import fuse
model = torchvision.models.resnet50()
model.load_state_dict(torch.load("resnet50.pt", weights_only=True))
fused, x = fuse(model.eval()), torch.randn(1, 3, 224, 224)
with torch.no_grad():
    print((model(x) - fused(x)).abs().max())
torch.save(fused, "fused.pt")
"""

_BUILD_BY_HAND = """
import onnx, torch, torchvision
import tensorrt_rtx as trt
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch.fx.experimental.optimization import fuse
model = torchvision.models.resnet50()
model.load_state_dict(torch.load("resnet50.pt", weights_only=True))
fused, x = fuse(model.eval()), torch.randn(1, 3, 224, 224)
torch.save(fused, "fused.pt")
with torch.no_grad():
    torch.jit.freeze(torch.jit.trace(fused, x, check_trace=False)).save("fused.ts.pt")
program = torch.export.export(fused, (x,))
torch.export.save(program, "fused.pt2")
torch.onnx.export(program, (x,), "fused.onnx", dynamo=True, external_data=False)
onnx.save(convert_float_to_float16(onnx.load("fused.onnx")), "half.onnx")
logger = trt.Logger(trt.Logger.WARNING)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
assert parser.parse_from_file("half.onnx")
config = builder.create_builder_config()
members = [trt.ComputeCapability.SM80, trt.ComputeCapability.SM86, trt.ComputeCapability.SM89,
           trt.ComputeCapability.SM120]
config.num_compute_capabilities = len(members)
for index, member in enumerate(members):
    config.set_compute_capability(member, index)
open("half.engine", "wb").write(builder.build_serialized_network(network, config))
"""


def command_seconds(words: list[str], directory: str) -> float:
    """CPU seconds of a process and its children; installed packages have their bytecode."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, cwd=directory, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def print_whole_command(rounds: int) -> None:
    """Print the CPU time of each command and of a script, run in turns, and their ratio."""
    program = str(Path(sys.executable).with_name("deployfold"))
    for words, script in (
        ("fold resnet50.pt -o out.pt", _FOLD_BY_HAND),
        ("build resnet50.pt --fp16 --no-measure", _BUILD_BY_HAND),
    ):
        with tempfile.TemporaryDirectory() as directory:
            torch.save(net("resnet50").state_dict(), f"{directory}/resnet50.pt")
            command_seconds([program, "--help"], directory)  # may write bytecode
            pairs = [
                (
                    command_seconds([program, *words.split()], directory),
                    command_seconds([sys.executable, "-c", script], directory),
                )
                for _ in range(rounds)
            ]
        low, middle, high = np.percentile([own / hand for own, hand in pairs], [25, 50, 75])
        own, hand = np.median(pairs, axis=0)
        print(
            f"{words} / script by hand, ResNet-50: {middle:.2f} [{low:.2f}, {high:.2f}] "
            f"({own:.1f} s and {hand:.1f} s of CPU time)",
            flush=True,
        )


def resident(field: str) -> int:
    """VmRSS, the resident memory, or VmHWM, its peak since it was last reset; in KiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


class _Pyramid(nn.Module):
    """A pre-activation block, whose BatchNorms hang together along the residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norms[1](self.convs[0](self.norms[0](x))).relu()
        return x + self.norms[2](self.convs[1](y))


def _chain(layers: int) -> nn.Module:
    blocks = [[nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()] for _ in range(layers // 2)]
    return nn.Sequential(*(module for block in blocks for module in block))


def _stream(layers: int) -> nn.Module:
    blocks = (_Pyramid() for _ in range(layers // 5))
    return nn.Sequential(nn.Conv2d(4, 4, 1), *blocks, nn.Conv2d(4, 4, 1))


def planning_seconds(model: nn.Module, size: int) -> float:
    """CPU seconds of planning, the better of two; tracing is not part of it."""
    inputs = (torch.randn(1, next(iter(model.parameters())).shape[1], size, size),)
    found = []
    for _ in range(2):
        graph = trace(model, inputs)
        start = time.process_time()
        match(graph, model)
        found.append(time.process_time() - start)
    return min(found)


def random_statistics(model: nn.Module) -> nn.Module:
    """Give every BatchNorm a shift, so that each fold has to place one."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def print_growth() -> None:
    """Planning time by the number of layers, and its exponent."""
    layers = (250, 500, 1000, 2000, 4000)
    for name, build in (("chain", _chain), ("residual stream", _stream)):
        seconds = [planning_seconds(random_statistics(build(number)), 4) for number in layers]
        exponent = float(np.polyfit(np.log(layers), np.log(seconds), 1)[0])
        listed = ", ".join(
            f"{number}: {s:.2f} s" for number, s in zip(layers, seconds, strict=True)
        )
        print(f"planning, {name} of layers {listed}; exponent {exponent:.2f}")
    dense = random_statistics(torchvision.models.densenet201(weights=None))
    print(f"planning, DenseNet-201: {planning_seconds(dense, 64):.2f} s")


def main() -> None:
    """Run and print all comparisons."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    torch.set_num_threads(1)
    print_whole_command(min(rounds, 5))
    print_growth()
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
        apart, proved = peak_memory(name, False), peak_memory(name, True)
        print(f"peak memory / parameters, {name}: {apart:.2f}, with the proof {proved:.2f}")


if __name__ == "__main__":
    main()
