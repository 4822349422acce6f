"""Decides independently which BatchNorms could have been folded.

It knows nothing of deployfold's graph or rules. A BatchNorm that neighbours can absorb exactly
leaves the network a *gauge freedom*: scaling or shifting one of its channels changes the outputs
just as some change of the neighbours' weights does. So the derivative of the outputs along "scale
channel c" and "shift channel c" must lie in the span of the derivatives along "scale or shift
channel c of that layer's output" and "scale or shift channel c of that layer's input", for the
layers around it. That is a least-squares problem in float64: its relative residual is about 1e-12
where the BatchNorm can go, and far from it where it cannot. It is asked of the network with that
BatchNorm made an identity, which is where the gauge transformation has to lead.

Judged are the first channels of each BatchNorm against the layers run shortly before and after it,
with the same channel number: reshapes that renumber channels in between are beyond it.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from deployfold.folding.modules import tensors_in

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
ABSORBED = 1e-10
"""Residuals below are a gauge freedom."""


@dataclass
class _Run:
    name: str
    module: nn.Module
    source: Tensor
    result: Tensor

    @cached_property
    def pulled(self) -> Tensor:
        """The derivative of the outputs' projection along this layer's input, for it alone."""
        source = self.source.clone().requires_grad_()
        result = self.forward(source)
        (pulled,) = torch.autograd.grad((result * self.result.grad).sum(), source)
        return pulled

    def forward(self, source: Tensor) -> Tensor:
        """The layer without its hooks."""
        result: Tensor = self.module.__class__.forward(self.module, source)
        return result


def residuals(
    model: nn.Module,
    shape: tuple[int, ...],
    names: list[str],
    *,
    reach: int = 4,
    samples: int = 64,
    batch: int = 16,
    channels: int = 12,
    seed: int = 0,
) -> dict[str, float]:
    """For each named BatchNorm, the greatest relative residual over its judged channels.

    A channel that no sample's output depends on, behind a dead ReLU, says nothing; a BatchNorm of
    such channels alone is not judged.

    Args:
        model: in evaluation mode; a float64 copy is used.
        shape: of one input, with a batch axis of 1.
        reach: how many layers before and after count as neighbours.
        channels: how many of a BatchNorm are judged; of few, a ReLU behind may let all through.
        samples: random inputs, each an equation; more than four for each neighbour.
    """
    torch.manual_seed(seed)
    model = copy.deepcopy(model).double().eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    equations: dict[tuple[str, int], list[tuple[Tensor, Tensor]]] = {}
    _enliven(model, torch.randn(max(batch, 8), *shape[1:], dtype=torch.float64))
    _dissolve([model.get_submodule(name) for name in names])
    everything = {name for name, _ in model.named_modules()}
    order = _record(model, torch.randn(shape, dtype=torch.float64), everything)
    # Layers far from the judged are not kept: large networks would not fit otherwise.
    kept = set(names)
    for at, run in enumerate(order):
        if run.name in names:
            kept |= {order[near].name for near in _neighbours(order, at, reach)}
    del order
    for _ in range(samples // batch):
        runs = _record(model, torch.randn(batch, *shape[1:], dtype=torch.float64), kept)
        by_name = {run.name: index for index, run in enumerate(runs)}
        known: dict[tuple[int, int], list[Tensor]] = {}
        for name in names:
            if name not in by_name:
                continue
            at = by_name[name]
            for channel in range(min(channels, runs[at].result.shape[1])):
                columns = []
                for near in _neighbours(runs, at, reach):
                    if (near, channel) not in known:
                        known[near, channel] = _directions(runs[near], channel)
                    columns += known[near, channel]
                wanted = torch.stack(_output_directions(runs[at], 1, channel), 1)
                equations.setdefault((name, channel), []).append((torch.stack(columns, 1), wanted))
    found: dict[str, float] = {}
    for (name, _), parts in equations.items():
        residual = _residual(torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts]))
        if residual is not None:
            found[name] = max(found.get(name, 0.0), residual)
    return found


def _enliven(model: nn.Module, inputs: Tensor) -> None:
    """Give the remaining BatchNorms the statistics of the data.

    With random ones the signal of a deep network dies out. It is linear then, since no activation
    changes its sign any more, and a linear network has freedoms that it otherwise has not.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum, norm.training = 1.0, norm.running_mean is not None
    with torch.no_grad():
        model(inputs)
    for norm in norms:
        norm.eval()


def _dissolve(norms: list[nn.Module]) -> None:
    """Make identities of the judged BatchNorms, since that is where they are to be led.

    Elsewhere the test says too much: between ``ReLU`` and a layer that pads with zeros, the shift
    can be made as small as one likes, and all directions are free, but it can never become zero.
    """
    for norm in norms:
        if norm.running_mean is not None and norm.weight is not None:
            with torch.no_grad():
                norm.weight.copy_((norm.running_var + norm.eps).sqrt())
                norm.bias.copy_(norm.running_mean)


def _residual(matrix: Tensor, wanted: Tensor) -> float | None:
    if bool((wanted.norm(dim=0) == 0).any()):
        return None
    matrix = matrix / matrix.norm(dim=0).clamp_min(1e-300)
    solution = torch.linalg.lstsq(matrix, wanted, driver="gelsd").solution
    return float(((matrix @ solution - wanted).norm(dim=0) / wanted.norm(dim=0)).max())


def _record(model: nn.Module, inputs: Tensor, kept: Collection[str]) -> list[_Run]:
    """One forward and backward of random projections; the runs of the modules named ``kept``."""
    runs: list[_Run] = []
    handles = []
    for name, module in model.named_modules():
        if name in kept and isinstance(module, (*LAYERS, nn.modules.batchnorm._BatchNorm)):

            def hook(module: nn.Module, arguments, result, name: str = name) -> Tensor:
                # An in-place activation must not write into what is recorded.
                kept = result if result.requires_grad else result.requires_grad_()
                kept.retain_grad()
                runs.append(_Run(name, module, arguments[0].detach().clone(), kept))
                return kept.clone()

            handles.append(module.register_forward_hook(hook))
    try:
        outputs = [
            tensor
            for tensor in tensors_in(model(inputs.requires_grad_()))
            if tensor.is_floating_point() and tensor.shape[:1] == inputs.shape[:1]
        ]
    finally:
        for handle in handles:
            handle.remove()
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    return [run for run in runs if run.result.grad is not None]


def _neighbours(runs: list[_Run], at: int, reach: int) -> list[int]:
    layers = [index for index, run in enumerate(runs) if isinstance(run.module, LAYERS)]
    before = [index for index in layers if index < at][-reach:]
    return [*before, *[index for index in layers if index > at][:reach]]


def _directions(run: _Run, channel: int) -> list[Tensor]:
    axis = _axis(run)
    found: list[Tensor] = []
    if channel < run.result.shape[axis]:
        found += _output_directions(run, axis, channel)
    if channel < run.source.shape[axis]:
        found += _input_directions(run, axis, channel)
    return found


def _output_directions(run: _Run, axis: int, channel: int) -> tuple[Tensor, Tensor]:
    """The derivative of every sample's projection along scaling and shifting an output channel.

    Of a BatchNorm with an activation in it (timm's BatchNormAct2d), before the activation.
    """
    result, pulled = run.result.detach(), run.result.grad
    activation = getattr(run.module, "act", None)
    if activation is not None:
        norm = run.module
        result = nn.functional.batch_norm(
            run.source, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        ).requires_grad_()
        (pulled,) = torch.autograd.grad((activation(result.clone()) * pulled).sum(), result)
        result = result.detach()
    gradient = _by_sample(pulled.select(axis, channel))
    value = _by_sample(result.select(axis, channel))
    return (gradient * value).sum(1), gradient.sum(1)


def _input_directions(run: _Run, axis: int, channel: int) -> list[Tensor]:
    """The same for one input channel of this layer alone.

    A constant added before a layer is a constant after it, by the sum of its weights: a layer that
    pads with zeros cannot be given one, but its bias can, so this is the direction to test.
    """
    scale = _by_sample((run.pulled * run.source).select(axis, channel)).sum(1)
    ones = torch.zeros_like(run.source[:1])
    ones.select(axis, channel).fill_(1.0)
    with torch.no_grad():
        change = run.forward(ones) - run.forward(torch.zeros_like(ones))
        # What a bias can do is the same everywhere: as far from the padding as there is.
        middle = [slice(None)] * 2 + [slice(n // 2, n // 2 + 1) for n in change.shape[2:]]
        constant = change if isinstance(run.module, nn.Linear) else change[tuple(middle)]
    shift = _by_sample(run.result.grad * constant).sum(1)
    return [scale, shift]


def _axis(run: _Run) -> int:
    return run.result.dim() - 1 if isinstance(run.module, nn.Linear) else 1


def _by_sample(tensor: Tensor) -> Tensor:
    return tensor.reshape(tensor.shape[0], -1)
