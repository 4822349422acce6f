"""The networks of the zoo: torchvision's with BatchNorm, and one of each timm family."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import nn

from deployfold.folding.graph.affine_layer import is_batchnorm_module

warnings.simplefilter("ignore")

# Of each torchvision line of sizes, the others differ in width and depth alone.
_TOO_LARGE = re.compile(
    r"regnet_[xy]_(3|8|16|32|128)|efficientnet_b[3-7]|efficientnet_v2_[ml]|resnext101_64|vgg(13|16|19)"
)
_FAMILIES = 160


def names() -> list[str]:
    """All names, ``torchvision:NAME`` and ``timm:NAME``."""
    return [*_timm(), *_torchvision()]


def create(name: str) -> nn.Module:
    """The network with seeded random weights and seeded BatchNorm statistics."""
    package, _, model = name.partition(":")
    torch.manual_seed(0)
    if package == "torchvision":
        net = _torchvision_net(model)
    else:
        import timm

        net = timm.create_model(model)
    return randomise(net).eval()


def randomise(net: nn.Module) -> nn.Module:
    """Statistics of both signs and of realistic size, so that a wrong fold shows."""
    with torch.no_grad():
        for module in net.modules():
            if not is_batchnorm_module(module):
                continue
            if module.running_mean is not None:
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
            if module.weight is not None:
                module.weight.uniform_(0.5, 1.5)
            if module.bias is not None:
                module.bias.normal_(0, 0.2)
    return net


def example(name: str, net: nn.Module) -> tuple[torch.Tensor, ...] | tuple[list[torch.Tensor]]:
    """An input that the network takes, as small as it allows."""
    package, _, model = name.partition(":")
    torch.manual_seed(1)
    if package == "torchvision":
        import torchvision

        module = torchvision.models.get_model_builder(model).__module__
        if ".detection" in module:
            return ([torch.rand(3, 128, 128)],)
        if ".optical_flow" in module:
            return (torch.randn(1, 3, 128, 128), torch.randn(1, 3, 128, 128))
        if ".video" in module:
            frames, size = (16, 224) if model == "s3d" else (8, 112)
            return (torch.randn(1, 3, frames, size, size),)
        size = {"inception_v3": 299, "maxvit_t": 224}.get(model, 96)
        return (torch.randn(1, 3, size, size),)
    channels, *size = net.default_cfg["input_size"]
    for shape in ((96, 96), tuple(size)):
        inputs = (torch.randn(1, channels, *shape),)
        try:
            with torch.inference_mode():
                net(*inputs)
        except Exception:
            continue
        return inputs
    return inputs


def _torchvision_net(name: str) -> nn.Module:
    import torchvision

    # Detectors enlarge their input to 800 pixels unless told otherwise.
    for options in ({"weights_backbone": None, "min_size": 128}, {"weights_backbone": None}, {}):
        try:
            return torchvision.models.get_model(name, weights=None, **options)
        except (TypeError, ValueError):  # not all of them have these options
            continue
    raise ValueError(name)


def _outline(build: Callable[[], nn.Module]) -> nn.Module:
    """The network without numbers, where its constructor can do without; that is quicker."""
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:
        return build()


def _torchvision() -> Iterator[str]:
    import torchvision

    for name in torchvision.models.list_models():
        if "quantized" in name or _TOO_LARGE.search(name):
            continue
        net = _outline(lambda name=name: _torchvision_net(name))
        if any(is_batchnorm_module(module) for module in net.modules()):
            yield f"torchvision:{name}"


def _timm() -> list[str]:
    """The smallest net with BatchNorm of each family; a family is the letters of a name."""
    import timm

    families: dict[str, list[str]] = {}
    for name in timm.list_models():
        family = re.sub(r"[\d.]+.*", "", name.removeprefix("tf_")).strip("_")
        module = timm.models.model_entrypoint(name).__module__
        families.setdefault(f"{module}/{family}", []).append(name)
    chosen = []
    for members in families.values():
        best: tuple[int, str] | None = None
        for name in members[:12]:
            try:
                net = _outline(lambda name=name: timm.create_model(name))
            except Exception:
                continue
            if any(is_batchnorm_module(module) for module in net.modules()):
                size = sum(parameter.numel() for parameter in net.parameters())
                best = min(best or (size, name), (size, name))
        if best is not None and best[0] < 60_000_000:
            chosen.append(best[1])
    return [f"timm:{name}" for name in sorted(chosen)[:_FAMILIES]]
