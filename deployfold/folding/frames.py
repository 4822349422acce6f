"""A model that takes raw uint8 frames and contains their normalisation.

:class:`Frames` normalises in its forward: channel order, mean, scale. Folding puts the scale into
the layers behind, as with any constant scale. :func:`absorb` then puts the channel order and the
mean into the first convolutions, where that is exact:

1. The channel order becomes a permutation of the input channels of the convolutions' weights.
2. The mean goes into the biases if no first convolution pads with zeros:
   ``b' = b - sum(W) mean``. A padding zero stands for a pixel of the mean's colour, so with padding
   one subtraction stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deployfold.errors import FoldError
from deployfold.util.quiet import TORCHSCRIPT_IS_FINE, without_warnings

from .modules import copy_modules
from .proof.compare import difference, double_inputs, run_model
from .proof.verify import TOLERANCE

LEVELS = 255.0
"""The highest level of a pixel; mean and std are given for values from 0 to 1."""


class Frames(nn.Module):
    """A model with the normalisation of raw pictures in front.

    Args:
        model: a model that takes float pictures ``(value / 255 - mean) / std``.
        mean, std: one number a channel, in the order of the model's channels.
        layout: the layout of the frames, ``nchw`` or ``nhwc``.
        own_layout: the layout of the model's input, ``nchw`` or ``nhwc``.
        flip: the frames are RGB and the model takes BGR.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        layout: str,
        own_layout: str,
        flip: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self.layout, self.own_layout, self.flip = layout, own_layout, flip
        shape = (1, -1, 1, 1) if own_layout == "nchw" else (1, 1, 1, -1)
        wide = torch.tensor(mean, dtype=torch.float64).reshape(shape) * LEVELS
        self.mean: Tensor | None
        self.register_buffer("mean", wide.float() if bool(wide.any()) else None)
        spread = torch.tensor(std, dtype=torch.float64).reshape(shape) * LEVELS
        self.scale: Tensor | None = nn.Parameter(1.0 / spread).requires_grad_(False)
        self.scale.data = self.scale.data.float()

    def forward(self, frames: Tensor) -> Any:
        """Normalise the frames and call the model.

        Args:
            frames: uint8, ``(N, C, H, W)`` or ``(N, H, W, C)``, as the layout says.
        """
        x = frames.to(self._dtype)  # first, because TensorRT cannot move uint8 data
        if self.layout != self.own_layout:
            x = x.permute((0, 3, 1, 2) if self.own_layout == "nchw" else (0, 2, 3, 1))
        if self.flip:
            x = x.flip(self.axis)
        if self.mean is not None:
            x = x - self.mean
        if self.scale is not None:
            x = x * self.scale
        return self.model(x)

    @property
    def _dtype(self) -> torch.dtype:
        """The dtype of the weights: float64 during the proof, float32 without float weights."""
        return next(
            (one.dtype for one in self.parameters() if one.is_floating_point()), torch.float32
        )

    @property
    def operations(self) -> list[str]:
        """The parts of the normalisation, for the report."""
        parts = {
            "the scale": self.scale is not None,
            "the channel order": self.flip,
            "the mean": self.mean is not None,
        }
        return [name for name, present in parts.items() if present]

    @property
    def axis(self) -> int:
        """The axis of the channels in the model's input."""
        return 1 if self.own_layout == "nchw" else 3


@TORCHSCRIPT_IS_FINE.made()
def scripted(frames: Frames, inputs: tuple[Tensor, ...]) -> torch.jit.ScriptModule:
    """The normalisation in front of a TorchScript model as one TorchScript model.

    Only the normalisation is traced: the model behind keeps its branches.

    Args:
        inputs: uint8 frames.
    """
    with without_warnings(), torch.no_grad():
        made: torch.jit.ScriptModule = torch.jit.trace(frames, inputs, check_trace=False)  # type: ignore[no-untyped-call]
    return made.eval()


@dataclass(frozen=True)
class Absorbed:
    """The result of :func:`absorb`.

    Attributes:
        model: the model, with fewer operations of the normalisation left to compute.
        note: a sentence for the report.
    """

    model: Frames
    note: str


def absorb(frames: Frames, inputs: tuple[Tensor, ...]) -> Absorbed:
    """Put channel order and mean into the first convolutions, after the scale has been folded.

    The changed model is compared with the unchanged one in float64, on ``inputs`` and on random
    frames. An operation stays where the two differ by more than ``TOLERANCE`` (relative), or where
    other layers than convolutions come first.
    """
    layers, names = _first_convolutions(frames, inputs)
    scaled = frames.scale is None or frames.scale.numel() == 1
    done: list[str] = []
    stays: list[str] = []
    (done if scaled else stays).append("the scale")
    wanted = [("flip", "the channel order")] * frames.flip
    wanted += [("mean", "the mean")] * (frames.mean is not None)
    for what, title in wanted:
        changed = _changed(frames, what, layers, inputs) if layers and scaled else None
        if changed is None:
            stays.append(title)
            continue
        frames, done = changed, [*done, title]
        layers, _ = _first_convolutions(frames, inputs)
    padding = names[0] if any(_pads(one) for one in layers) else None
    note = absorbed_note(frames.layout, done, stays, names, padding)
    return Absorbed(frames, note)


def absorbed_note(
    layout: str,
    done: Sequence[str],
    stays: Sequence[str],
    names: Sequence[str],
    padding: str | None,
) -> str:
    """The sentence for the report.

    Args:
        layout: the layout of the frames.
        done, stays: the parts of the normalisation that were folded, and those that stay.
        names: the first convolutions.
        padding: a first convolution that pads with zeros.
    """
    why = f": {padding!r} pads with zeros" if padding else ""
    kept = (
        f"; {_listed(stays)} {'stays an operation' if len(stays) == 1 else 'stay operations'}{why}"
    )
    where = " and ".join(f"{name!r}" for name in names) or "the layers behind"
    return (
        f"Raw uint8 frames go in ({layout.upper()}); of the normalisation, "
        f"{_listed(done) or 'nothing'} went into {where}{kept if stays else ''}."
    )


def _listed(words: Sequence[str]) -> str:
    """Join words into a list such as ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _first_convolutions(
    frames: Frames, inputs: tuple[Tensor, ...]
) -> tuple[list[nn.Conv2d], list[str]]:
    """The convolutions that read the normalised picture, and their names.

    Both are empty for an ``nhwc`` model and where a first convolution is grouped. Other readers of
    the picture are not found here; the proof in :func:`_changed` finds them.
    """
    if frames.own_layout != "nchw":
        return [], []
    found: dict[nn.Conv2d, str] = {}
    entered: list[Tensor] = []

    def enter(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        entered.append(arguments[0])

    def read(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if entered and arguments and arguments[0] is entered[0] and isinstance(module, nn.Conv2d):
            found[module] = names[module]

    names = {module: name for name, module in frames.named_modules()}
    handles = [frames.model.register_forward_pre_hook(enter)]
    handles += [one.register_forward_pre_hook(read) for one in names if isinstance(one, nn.Conv2d)]
    try:
        run_model(frames, inputs, random=False)
    finally:
        for handle in handles:
            handle.remove()
    if any(one.groups > 1 for one in found):
        return [], []
    return list(found), [name.removeprefix("model.") for name in found.values()]


def _changed(
    frames: Frames, what: str, layers: Sequence[nn.Conv2d], inputs: tuple[Tensor, ...]
) -> Frames | None:
    """Put the channel order or the mean into ``layers`` of a copy; ``None`` if not exact."""
    if what == "mean" and any(_pads(one) for one in layers):
        return None
    places = [name for name, module in frames.named_modules() if module in layers]
    try:
        exact, own = (_apply(frames, what, places, double=wide) for wide in (True, False))
    except FoldError:
        return None
    before = copy_modules(frames, share_parameters=False).double()
    wide = double_inputs(inputs)
    generator = torch.Generator().manual_seed(1)
    random = torch.randint(0, 256, inputs[0].shape, generator=generator, dtype=torch.uint8)
    for item in (wide, (random,)):
        expected, found = (
            run_model(before, item, random=False),
            run_model(exact, item, random=False),
        )
        if not difference(expected, found).relative <= TOLERANCE:
            return None
    return own


def _apply(frames: Frames, what: str, places: Sequence[str], *, double: bool) -> Frames:
    """Change the weights in a copy; the result is float64 if ``double``, else of the old dtype."""
    copied = copy_modules(frames, share_parameters=False)
    if double:
        copied = copied.double()
    for place, layer in copied.named_modules():
        if place not in places or not isinstance(layer, nn.Conv2d):
            continue
        weight = layer.weight.detach().double()
        if what == "flip":
            layer.weight.data = weight.flip(1).to(layer.weight.dtype).contiguous()
        elif copied.mean is not None:
            shift = -torch.einsum("oikl,i->o", weight, copied.mean.double().reshape(-1))
            bias = 0.0 if layer.bias is None else layer.bias.detach().double()
            layer.bias = nn.Parameter((bias + shift).to(layer.weight.dtype), requires_grad=False)
    if what == "mean":
        copied.mean = None
        return copied
    copied.flip = False
    if copied.mean is not None:
        copied.mean = copied.mean.flip(copied.axis).contiguous()
    return copied


def _pads(layer: nn.Conv2d) -> bool:
    if isinstance(layer.padding, str):
        return layer.padding == "same" and any(size > 1 for size in layer.kernel_size)
    return any(layer.padding)
