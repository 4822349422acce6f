"""Makes inputs at the largest shapes of the optimization profiles."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from deployfold.config.inputs import InputSpec
from deployfold.util.arrays import Array


def largest_feeds(inputs: InputSpec, feed: Mapping[str, Array]) -> tuple[dict[str, Array], ...]:
    """One feed for each profile whose largest shapes exceed those of ``feed``.

    The values of ``feed`` repeat along the longer axes. The first axis keeps its size if all inputs
    share its range, because it is then the batch.

    Args:
        inputs: the shapes and profiles of the model's inputs.
        feed: one input array for each name.
    """
    found: dict[tuple[tuple[int, ...], ...], dict[str, Array]] = {}
    for profile in inputs.profiles:
        batched = len({(one.min[:1], one.max[:1]) for one in profile if one.max}) == 1
        wide: dict[str, Array] = {}
        for name, one in zip(inputs.names, profile, strict=True):
            array = feed[name]
            extra = [max(0, most - size) for size, most in zip(array.shape, one.max, strict=True)]
            if batched and extra:
                extra[0] = 0
            padding = [(0, more) for more in extra]
            wide[name] = np.pad(array, padding, mode="wrap") if padding else array
        if any(wide[name].shape != array.shape for name, array in feed.items()):
            found[tuple(array.shape for array in wide.values())] = wide
    return tuple(found.values())
