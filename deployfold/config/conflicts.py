"""Refuse options that a build would ignore, before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deployfold.errors import UsageError

from .build_options import build_options
from .build_spec import BuildSpec
from .make_spec import make_spec
from .precision import QUANTISED, Precision, flags

_ADD_CALIBRATED = f"Add {flags(one for one in Precision if one.record.calibration != 'none')}."
_ADD_QUANTISED = f"Add {flags(QUANTISED)}."
_ADD_ACTIVATIONS = f"Add {flags(one for one in Precision if one.record.quantises_activations)}."


def _engine_keys() -> tuple[str, ...]:
    builder = (one.key for one in build_options() if one.group == "options")
    return ("target", "tune", "workspace", "torch-tensorrt", *builder)


@dataclass(frozen=True)
class Need:
    """A condition without which some options have no effect.

    Attributes:
        keys: the keys of these options.
        met: whether a build meets the condition.
        lack: the reason in the message «--KEY has no effect: …», where the build does not.
        hint: how to meet the condition.
    """

    keys: tuple[str, ...]
    met: Callable[[BuildSpec], bool]
    lack: str
    hint: str


LAYERS = "layers"
"""The key of ``--layers``: the flag belongs to the output, so no field of ``BuildSpec`` has it."""

NEEDS = (
    Need(
        tuple(one.key for one in build_options() if one.pytorch),
        lambda spec: not spec.is_onnx,
        "an ONNX holds no PyTorch model",
        "Give the PyTorch model instead, or leave the option out.",
    ),
    Need(
        ("calib", "calib-samples", "held-back"),
        lambda spec: any(one.record.calibration != "none" for one in spec.precisions),
        "no precision of this build is calibrated",
        _ADD_CALIBRATED,
    ),
    Need(
        ("calib-samples", "held-back"),
        lambda spec: spec.calibration is not None,
        "there is no calibration data",
        "Add --calib SOURCE.",
    ),
    Need(
        ("min-sqnr", "min-agreement", "min-quantized-share", "rest-precision", LAYERS),
        lambda spec: any(one.record.family == "qdq" for one in spec.precisions),
        "no precision of this build is quantised",
        _ADD_QUANTISED,
    ),
    Need(
        ("min-sqnr", "min-sqnr-for", "min-agreement", "min-quantized-share"),
        lambda spec: spec.guard.enabled,
        "--no-guard switches the limits of accuracy off",
        "Leave one of the two out.",
    ),
    Need(
        ("residual-qdq", "tune"),
        lambda spec: any(one.record.quantises_activations for one in spec.precisions),
        "no precision of this build quantises activations",
        _ADD_ACTIVATIONS,
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
        ("min-metric",),
        lambda spec: bool(spec.metric.names),
        "no task metric is measured",
        "Add --metric NAME.",
    ),
    Need(
        ("metric",),
        lambda spec: spec.calibration is not None or spec.input_data is not None,
        "there is no data to measure it on",
        "Add --calib or --input-data, and --labels.",
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
        ("choose",),
        lambda spec: spec.measure or spec.choose == "size",
        "--no-measure measures nothing",
        "Choose by size, or leave one of the two out.",
    ),
    Need(
        ("batch", "cold-start", "no-cuda-graph", "min-speedup", "max-latency-ms"),
        lambda spec: spec.measure,
        "--no-measure measures nothing",
        "Leave one of the two out.",
    ),
)


def unmet(keys: Iterable[str], spec: BuildSpec) -> dict[str, Need]:
    """The keys without an effect on a build, each with the condition that is not met."""
    written = set(keys)
    return {
        key: need
        for need in reversed(NEEDS)  # where a key has two unmet needs, report the first one
        if not need.met(spec)
        for key in need.keys
        if key in written
    }


def check_used(keys: Iterable[str], spec: BuildSpec) -> None:
    """Refuse options that would be ignored.

    Args:
        keys: the options on the command line. Options that a profile sets may have no effect.

    Raises:
        UsageError: names the first such option and the condition that is not met.
    """
    order = list(keys)
    found = unmet(order, spec)
    for key in order:
        if key in found:
            raise UsageError(f"--{key} has no effect: {found[key].lack}.", hint=found[key].hint)


def used(written: Mapping[str, Any]) -> dict[str, Any]:
    """The written values that have an effect, for a generated command.

    Contradictory values stay, so that the generated command reports the contradiction.
    """
    try:
        idle = unmet(written, make_spec("model", written))
    except UsageError:
        return dict(written)
    return {key: value for key, value in written.items() if key not in idle}
