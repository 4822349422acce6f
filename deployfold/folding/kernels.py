"""Mapping the taps of one convolution kernel to positions in another kernel."""

from __future__ import annotations

from .graph.layers import Layer

Taps = tuple[tuple[int, ...], ...]
"""For every spatial axis, the size of the large kernel, then each tap's position in the kernel."""


def centre_taps(layer: Layer) -> Taps | None:
    """Find the kernel tap that reads the output's own position; ``None`` without such a tap."""
    if layer.kind in ("conv_transpose", "deform_conv") or layer.in_channels != layer.out_channels:
        return None
    taps = []
    for kernel, stride, padding, dilation in layer.geometry:
        if stride != 1 or padding % dilation or padding // dilation >= kernel:
            return None
        taps.append((kernel, padding // dilation))
    return tuple(taps)


def taps_within(small: Layer, large: Layer) -> Taps | None:
    """Find each tap of ``small`` in the kernel of ``large``; ``None`` if the kernels do not fit."""
    if small.kind != large.kind or small.rank != large.rank or small.groups % large.groups:
        return None
    taps = []
    for (k, stride, padding, dilation), (size, large_stride, large_padding, step) in zip(
        small.geometry, large.geometry, strict=True
    ):
        offsets = [large_padding - padding + tap * dilation for tap in range(k)]
        if stride != large_stride or any(offset % step for offset in offsets):
            return None
        positions = [offset // step for offset in offsets]
        if positions[0] < 0 or positions[-1] >= size:
            return None
        taps.append((size, *positions))
    return tuple(taps)
