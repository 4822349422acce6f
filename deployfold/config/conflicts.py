"""Options that would be ignored or that contradict each other, told before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deployfold.errors import UsageError

from .build_options import build_options
from .settings import BuildSpec
from .written import make_spec


def _calibrated(spec: BuildSpec) -> bool:
    return any(one.record.calibration != "none" for one in spec.precisions)


def _quantised(spec: BuildSpec) -> bool:
    return any(one.record.family == "qdq" for one in spec.precisions)


def _engine_keys() -> tuple[str, ...]:
    builder = (one.key for one in build_options() if one.group == "options")
    return ("target", "workspace", "torch-tensorrt", *builder)


@dataclass(frozen=True)
class Need:
    """What some options need to have an effect.

    Attributes:
        keys: of the options.
        met: whether a build has what they need.
        lack: what the build does not have, after «… has no effect:».
        hint: how to get it.
    """

    keys: tuple[str, ...]
    met: Callable[[BuildSpec], bool]
    lack: str
    hint: str


LAYERS = "layers"
"""The key of ``--layers``, which changes what is shown, not what is built."""

NEEDS = (
    Need(
        ("calib", "calib-samples", "held-back"),
        _calibrated,
        "no precision of this build is calibrated",
        "Add --int8, --fp8 or --int4.",
    ),
    Need(
        ("calib-samples", "held-back"),
        lambda spec: spec.calibration is not None,
        "there is no calibration data",
        "Add --calib SOURCE.",
    ),
    Need(
        ("min-sqnr", "min-agreement", "min-quantized-share", "rest-precision", LAYERS),
        _quantised,
        "no precision of this build is quantised",
        "Add --int8, --fp8 or --int4.",
    ),
    Need(
        ("min-sqnr", "min-sqnr-for", "min-agreement", "min-quantized-share"),
        lambda spec: spec.guard.enabled,
        "--no-guard switches the limits of accuracy off",
        "Leave one of the two out.",
    ),
    Need(
        ("residual-qdq",),
        lambda spec: any(
            one.record.family == "qdq" and not one.record.weights_only for one in spec.precisions
        ),
        "no precision of this build quantises activations",
        "Add --int8 or --fp8.",
    ),
    Need(
        ("io", "keep-fp32", "keep-fp32-op", "min-sqnr-for", "no-guard"),
        lambda spec: bool(spec.precisions),
        "this build lowers the model to no other precision",
        "Add a precision such as --fp16.",
    ),
    Need(
        ("labels",),
        lambda spec: spec.calibration is not None or spec.input_data is not None,
        "there is no data that the labels belong to",
        "Add --calib or --input-data.",
    ),
    Need(
        _engine_keys(),
        lambda spec: spec.engine,
        "--no-engine builds none",
        "Leave one of them out.",
    ),
    Need(
        ("no-gpu-fallback",),
        lambda spec: spec.options.dla_core is not None,
        "the engine does not run on a DLA",
        "Add --dla-core N.",
    ),
    Need(
        ("batch", "cold-start", "no-cuda-graph", "min-speedup", "max-latency-ms"),
        lambda spec: spec.measure,
        "--no-measure measures nothing",
        "Leave one of the two out.",
    ),
)


def unmet(keys: Iterable[str], spec: BuildSpec) -> dict[str, Need]:
    """The keys that would have no effect on a build, and what they need."""
    written = set(keys)
    return {
        key: need
        for need in reversed(NEEDS)  # the first need of a key is the one to tell
        if not need.met(spec)
        for key in need.keys
        if key in written
    }


def check_used(keys: Iterable[str], spec: BuildSpec) -> None:
    """Refuse options that would be ignored.

    Args:
        keys: of the options on the command line. What a profile sets may go unused.

    Raises:
        UsageError: naming the first one, and what it needs.
    """
    order = list(keys)
    found = unmet(order, spec)
    for key in order:
        if key in found:
            raise UsageError(f"--{key} has no effect: {found[key].lack}.", hint=found[key].hint)


def used(written: Mapping[str, Any]) -> dict[str, Any]:
    """Written values without those that would have no effect, for a command that is generated.

    Values that contradict each other stay, so that the command tells of them.
    """
    try:
        idle = unmet(written, make_spec("model", written))
    except UsageError:
        return dict(written)
    return {key: value for key, value in written.items() if key not in idle}
