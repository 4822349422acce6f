"""Serves a head and its tail in Triton: one model for each, and an ensemble that chains the two."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from deployfold.runtimes.onnxruntime import ONNX_IN_TRITON
from deployfold.runtimes.tail_name import PASSED

from .pbtxt import text
from .triton_config import Interface, tensor_entry

_LATEST = -1


def tail_model(build: str) -> str:
    """The name of the tail's model, which all heads of a build share."""
    return f"{build}_{ONNX_IN_TRITON.backend}_tail"


def ensemble_config(name: str, whole: Interface, steps: Iterable[tuple[str, Interface]]) -> str:
    """The text of ``config.pbtxt`` of the ensemble.

    Args:
        whole: the inputs and outputs of the model, which are those of the ensemble.
        steps: the head and the tail, each with the name of its model. A tensor keeps its name from
            one to the other, but for the ending of those that the tail passes through.
    """
    return text(
        {
            "name": name,
            "platform": "ensemble",
            "max_batch_size": 0,
            "input": [tensor_entry(one, batched=False) for one in whole.inputs],
            "output": [tensor_entry(one, batched=False) for one in whole.outputs],
            "version_policy": {"latest": {"num_versions": 1}},
            "ensemble_scheduling": {"step": [_step(*step) for step in steps]},
        }
    )


def _step(model: str, interface: Interface) -> dict[str, Any]:
    return {
        "model_name": model,
        "model_version": _LATEST,
        "input_map": [
            {"key": one.name, "value": one.name.removesuffix(PASSED)} for one in interface.inputs
        ],
        "output_map": [{"key": one.name, "value": one.name} for one in interface.outputs],
    }
