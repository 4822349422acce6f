"""Runs ``torch.export`` on a model, once for ``.pt2``, AOTInductor and ONNX."""

from __future__ import annotations

import inspect
import re
from pathlib import PurePath
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from deployfold.config.inputs import InputSpec
from deployfold.errors import ExportError, first_line
from deployfold.util.quiet import quiet
from deployfold.util.shared import ONE_AT_A_TIME

from .dynamic import BATCH_AXIS, is_dynamic, tracing_inputs
from .outputs import is_torchscript

_HINT = "ONNX is exported without it, by the TorchScript-based exporter."


def trace(
    module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], spec: InputSpec
) -> ExportedProgram:
    """Run ``torch.export`` on ``module``, with the dynamic axes of ``spec``.

    Where ``torch.export`` refuses a model, torch prints the graph so far to ``sys.stderr`` and has
    no switch for that. A command hides it. In a program that uses deployfold as a library it stays,
    because redirecting ``sys.stderr`` would also hide what other threads of the program print.

    Raises:
        ExportError: ``torch.export`` refuses the model, or makes a dynamic axis constant.
    """
    if is_torchscript(module):
        raise ExportError(
            "torch.export does not take TorchScript.",
            hint="Give the eager model (a pickled module or a state dict) for a .pt2 file.",
        )
    shapes: Any = None
    if is_dynamic(spec):
        inputs = tracing_inputs(inputs, spec)
        shapes = _dynamic_shapes(module, spec)
    try:
        with ONE_AT_A_TIME, torch.no_grad(), quiet():
            program = torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise ExportError(
            f"torch.export cannot export this model: {_reason(error)}.", hint=_HINT
        ) from error
    _check_dynamic(program, spec)
    return program


def _dynamic_shapes(module: torch.nn.Module, spec: InputSpec) -> tuple[Any, ...]:
    """The dynamic shapes: one common dimension for the batch of all inputs, and free other axes."""
    axes_of = spec.dynamic_axes
    ranges = [axes[0] for axes in axes_of if 0 in axes]
    batch = Dim(BATCH_AXIS, min=ranges[0][0], max=ranges[0][1]) if ranges else None
    shapes = tuple(
        {
            axis: batch if axis == 0 and bounds == ranges[0] else _free(*bounds)
            for axis, bounds in axes.items()
        }
        or None
        for axes in axes_of
    )
    # For forward(self, a, *rest), torch.export wants the shapes of `rest` as one nested tuple.
    parameters = list(inspect.signature(module.forward).parameters.values())
    for index, parameter in enumerate(parameters):
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL and index < len(shapes):
            return (*shapes[:index], shapes[index:])
    return shapes


def _free(low: int, high: int) -> Any:
    # Dim.AUTO accepts bounds since torch 2.7.
    hint: Any = Dim.AUTO
    return hint(min=low, max=high) if callable(hint) else hint


def _check_dynamic(program: ExportedProgram, spec: InputSpec) -> None:
    """Refuse a program in which a dynamic axis is constant.

    torch.export does not report axes that the model's code fixes.

    Raises:
        ExportError: an axis that should be dynamic is constant.
    """
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    taken = program.graph_signature.user_inputs
    for name, node, axes in zip(spec.names, taken, spec.dynamic_axes, strict=False):
        value = values.get(node) if isinstance(node, str) else None
        if not isinstance(value, torch.Tensor):
            continue
        for axis in axes:
            size = value.shape[axis]
            # A symbol that became constant stays a SymInt with that constant.
            if isinstance(size, int) or size.node.maybe_as_int() is not None:
                raise ExportError(
                    f"torch.export cannot export this model: its code fixes axis {axis} of the "
                    f"input {name!r} to {size}, so it cannot be dynamic.",
                    hint=_HINT,
                )


def _reason(error: Exception) -> str:
    text = str(error)
    # The first message is from torch 2.7 and newer, the second from 2.6.
    constant = re.search(r"(?:specialized it|was inferred) to be a constant \((\d+)\)", text)
    if constant is not None:
        return f"its code fixes the batch size to {constant[1]}, so the batch cannot be dynamic"
    if "data-dependent expression" in text:
        reason = "its forward branches on the values of a tensor"
    else:
        reason = first_line(error).rstrip(".")
    call = re.search(r'raised this error:\s+File "([^"]+)", line (\d+)', text)
    return f"{reason} ({PurePath(call[1]).name}:{call[2]})" if call is not None else reason
