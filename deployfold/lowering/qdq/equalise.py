"""Scales the channels of activations so that one int8 scale serves all channels better.

Int8 has one range for all channels of an activation, so a small channel loses most of its
information. In a group of coupled tensors (:mod:`.coupled`) one layer can multiply each channel by
a factor, and the next layers divide by the factor again (cross-layer equalisation: Nagel et al.,
2019). The usual noise model predicts the effect: a twelfth of the squared step on each activation
and each weight. Small channels gain. The weights that compute a channel keep their precision,
because each output channel has its own scale. The weights that read the channel share one scale
over all inputs, and may lose. The candidate factors are ``(top of the channel)^-a (largest weight
that reads it)^b``, the family of SmoothQuant (Xiao et al., 2022), over a grid of a and b. The least
noise wins.

No factor is below 1. Under a Clip, no factor may push the calibrated range times :data:`HEADROOM`
beyond the bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import onnx_ir as ir
import torch

from deployfold.lowering.activations import observe
from deployfold.lowering.graph import operand, weight_of
from deployfold.util.arrays import Array

from .coupled import Coupled, find_coupled
from .layers import Layer, numbers, replace_numbers

HEADROOM = 2.0
"""How far a channel may exceed its calibrated range before a Clip cuts it."""

LARGEST = 256.0
"""The greatest factor. A channel that would need more is negligible."""

EQUALISED_KEY = "deployfold.equalised"
"""The metadata property of nodes whose channels are scaled; layer comparisons read it."""

_ACTIVATION_POWERS = np.linspace(0.0, 1.0, 9)
_WEIGHT_POWERS = np.linspace(0.0, 1.0, 5)
_STEPS = 127.0


@dataclass(frozen=True)
class Channels:
    """Statistics of each channel of a tensor over all samples, in float64.

    Attributes:
        top: the largest magnitude.
        power: the mean square.
    """

    top: Array
    power: Array


def equalise(model: ir.Model, layers: Sequence[Layer], feeds: Sequence[Mapping[str, Array]]) -> int:
    """Scale the weights around every group in place, without changing the model's function.

    Args:
        model: a float32 model with static shapes.
        layers: the layers that may be changed; see :func:`~.layers.find_layers`.

    Returns:
        The number of scaled groups.

    Raises:
        ExportError: ONNX Runtime cannot run the model.
    """
    groups = find_coupled(model, {layer.name for layer in layers})
    names = dict.fromkeys(name for group in groups for name in (*group.tensors, *group.clips))
    channels = measure(model, list(names), feeds)
    # Choose all factors before changing any weight, because a layer may stand between two groups.
    chosen = [(group, _best_factors(group, channels)) for group in groups]
    scaled = [(group, factors) for group, factors in chosen if (factors != 1.0).any()]
    for group, factors in scaled:
        for writer in group.writers:
            for value in writer.inputs[1:]:
                if value is not None:
                    _multiply(value, factors.reshape(-1, *[1] * (numbers(value).ndim - 1)))
        for reader in group.readers:
            _multiply(operand(reader, 1), 1.0 / _by_input(reader, factors))
        _mark(group)
    return len(scaled)


def _mark(group: Coupled) -> None:
    """Mark every node between the writers and the readers as scaled."""
    waiting = list(group.writers)
    while waiting:
        node = waiting.pop()
        if EQUALISED_KEY in node.metadata_props:
            continue
        node.metadata_props[EQUALISED_KEY] = "channels"
        users = [user for value in node.outputs for user, _ in value.uses()]
        waiting.extend(user for user in users if user not in group.readers)


def measure(
    model: ir.Model,
    names: Sequence[str],
    feeds: Sequence[Mapping[str, Array]],
    *,
    tokens: bool = False,
) -> dict[str, Channels]:
    """The statistics of the tensors ``names``, whose channels are the second axis.

    Args:
        tokens: the channels are the last of three or more axes; other tensors are left out.

    Raises:
        ExportError: ONNX Runtime cannot run the model.
    """
    tops: dict[str, list[Array]] = {}
    powers: dict[str, list[Array]] = {}
    for name, value in observe(model, names, feeds):
        if tokens and value.ndim < 3:
            continue
        rows = torch.from_numpy(value).movedim(-1 if tokens else 1, 0).flatten(1)
        tops.setdefault(name, []).append(rows.abs().amax(1).numpy())
        powers.setdefault(name, []).append(rows.square().mean(1).numpy())
    return {
        name: Channels(
            np.max(tops[name], 0).astype(np.float64), np.mean(powers[name], 0).astype(np.float64)
        )
        for name in tops
    }


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads the tensor, with statistics of its weight.

    Attributes:
        channels: the statistics of the tensor.
        largest: the largest magnitude over the taps of each filter, as ``(groups, output channels
            in the group, input channels in the group)``.
        squares: the sum of squares of the weights that read each channel.
        taps: the number of taps of a filter.
    """

    channels: Channels
    largest: Array
    squares: Array
    taps: int

    @classmethod
    def of(cls, node: ir.Node, channels: Mapping[str, Channels]) -> Reader:
        """The statistics of a convolution."""
        source, weight = operand(node, 0), operand(node, 1)
        groups = node.attributes.get_int("group", 1)
        held = numbers(weight)
        by_group = held.reshape(groups, len(held) // groups, held.shape[1], -1)
        return cls(
            channels[str(source.name)],
            np.abs(by_group).max(axis=3).astype(np.float32),
            np.square(by_group).sum(axis=(1, 3)).flatten(),
            by_group.shape[3],
        )

    @property
    def reading(self) -> Array:
        """The largest magnitude of the weights that read each channel."""
        largest: Array = self.largest.max(axis=1).flatten()
        return largest

    def noise(self, factors: Array) -> float:
        """The predicted noise power of the outputs over their signal power, with these factors."""
        top, power = self.channels.top * factors, self.channels.power * np.square(factors)
        signal = (self.squares * self.channels.power).sum()
        if not signal > 0.0:
            return 0.0
        groups = len(self.largest)
        by_activation = np.square(top.max()) * (self.squares / np.square(factors)).sum()
        steps = (self.largest / factors.reshape(groups, 1, -1)).max(axis=2)
        heard = power.reshape(groups, -1).sum(axis=1)
        by_weight = self.taps * (np.square(steps).sum(axis=1) * heard).sum()
        return float((by_activation + by_weight) / np.square(_STEPS) / 12.0 / signal)


def _best_factors(group: Coupled, channels: Mapping[str, Channels]) -> Array:
    """The best factor for each channel of a group, within its bounds."""
    readers = [Reader.of(node, channels) for node in group.readers]
    room = np.full_like(readers[0].channels.top, np.inf)
    for name, bound in group.clips.items():
        with np.errstate(divide="ignore"):
            room = np.minimum(room, np.maximum(bound / HEADROOM / channels[name].top, 1.0))
    return best_factors(readers, room)


def best_factors(readers: Sequence[Reader], room: Array) -> Array:
    """The best factor for each channel; 1 for a channel that is always 0 or that nothing reads.

    Args:
        readers: all layers that read the channels.
        room: the greatest factor of each channel.
    """
    top: Array = np.max([reader.channels.top for reader in readers], axis=0)
    reading: Array = np.max([reader.reading for reader in readers], axis=0)
    live = (top > 0.0) & (reading > 0.0)
    best = np.ones_like(top)
    if not live.any():
        return best
    least = sum(reader.noise(best) for reader in readers)
    for a, b in product(_ACTIVATION_POWERS, _WEIGHT_POWERS):
        factors = np.ones_like(top)
        factors[live] = top[live] ** -a * reading[live] ** b
        factors[live] /= max(factors[live].min(), factors[live].max() / LARGEST)
        factors[live] = np.clip(factors[live], 1.0, room[live])
        noise = sum(reader.noise(factors) for reader in readers)
        if noise < least:
            best, least = factors, noise
    return best


def _by_input(node: ir.Node, channels: Array) -> Array:
    """Numbers of the input channels, in the shape of the weight with size 1 along the taps."""
    shape = weight_of(operand(node, 1)).shape.numpy()
    groups = node.attributes.get_int("group", 1)
    rows = np.repeat(channels.reshape(groups, -1), shape[0] // groups, axis=0)
    spread: Array = rows.reshape(*shape[:2], *[1] * (len(shape) - 2))
    return spread


def _multiply(value: ir.Value, factors: Array) -> None:
    replace_numbers(value, numbers(value) * factors)
