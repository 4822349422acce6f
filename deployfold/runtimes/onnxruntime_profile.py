"""The time of each node in ONNX Runtime, by its own profiler."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from deployfold.errors import MeasureError

from .layer_times import LayerTime, Profile

_KERNEL = "_kernel_time"
_CAST = "InsertedPrecisionFreeCast_"
"""ONNX Runtime puts this before the name of a node for which it inserts a cast."""
_BLOCKED = "_nchwc"
"""ONNX Runtime puts this behind the name of an output that a kernel gives in a blocked layout."""


def read_profile(path: Path, *, skip: int) -> Profile:
    """The layers in a profile that ONNX Runtime wrote.

    Args:
        skip: calls at the start that do not count.

    Raises:
        MeasureError: the file holds no node.
    """
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in _events(path):
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            key = name.removesuffix(_KERNEL), str(event.get("args", {}).get("op_name", ""))
            times[key].append(float(event["dur"]) / 1e3)
    layers = tuple(
        LayerTime(name, kind, statistics.median(found[skip:]), (_node_name(name),))
        for (name, kind), found in times.items()
        if len(found) > skip
    )
    if not layers:
        raise MeasureError("ONNX Runtime's profile holds no node.")
    return Profile(layers)


def _events(path: Path) -> list[dict[str, Any]]:
    try:
        events = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MeasureError(f"ONNX Runtime's profile cannot be read: {error}.") from error
    return [event for event in events if isinstance(event, dict)]


def _node_name(kernel: str) -> str:
    """The ONNX node or value that a kernel is named after."""
    return kernel.removeprefix(_CAST).removesuffix(_BLOCKED)
