"""Calls torch's two ONNX exporters; both functions return the graph as an ``onnx_ir`` model."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from deployfold.util.quiet import TORCHSCRIPT_IS_FINE, quiet
from deployfold.util.shared import ONE_AT_A_TIME

from .baked import baked_note, noting_baked
from .onnx_graph import axis_name
from .outputs import FlatOutputs, copies, is_flat, is_torchscript

OPSET = 20
"""The newest opset that the TorchScript-based exporter writes and TensorRT 10.3's parser reads."""


def dynamo(
    program: ExportedProgram, input_names: Sequence[str], output_names: Sequence[str]
) -> ir.Model:
    """The ONNX of an exported program, by the exporter that torch recommends.

    The exporter can raise any exception.
    """
    with ONE_AT_A_TIME, quiet():
        result = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(input_names),
            output_names=list(output_names),
            verbose=False,
        )
    if not isinstance(result, torch.onnx.ONNXProgram) or not isinstance(result.model, ir.Model):
        raise TypeError("torch.onnx.export did not return a program with an onnx_ir model")
    return result.model


def torchscript(
    module: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    axes: dict[str, dict[int, str]],
    outputs: object,
) -> tuple[ir.Model, tuple[str, ...]]:
    """The ONNX of a traced module, or of a ``ScriptModule`` with its control flow.

    Args:
        axes: the dynamic axes by input and output name.
        outputs: the eager module's outputs with their nesting.

    Returns:
        The model, and notes on values that tracing made constant. The exporter can raise any
        exception.
    """
    scripted = is_torchscript(module)
    if scripted:
        module = _copy(module)
    if not is_flat(outputs):
        # Flatten dicts here, because the exporter uses another order.
        module = FlatOutputs(module)
    with (
        tempfile.TemporaryDirectory() as directory,
        TORCHSCRIPT_IS_FINE.made(),
        quiet(native=True),
        noting_baked() as baked,
        torch.no_grad(),
    ):
        # Use a file and not a buffer: over 2 GB, the exporter writes a second file.
        path = Path(directory) / "model.onnx"
        if scripted and not is_torchscript(module):  # torch.jit.trace keeps what it calls whole
            module = torch.jit.trace(module, copies(inputs), strict=False, check_trace=False)  # type: ignore[no-untyped-call]
        torch.onnx.export(
            module,
            copies(inputs),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_axes=axes or None,
            verbose=False,
        )
        model = ir.load(path)
        # Load memory-mapped external tensors before the directory is deleted.
        ir.external_data.load_to_model(model)
    return model, baked_note(baked)


def dynamic_axes(
    names: Sequence[str],
    first: Sequence[tuple[int, ...]],
    second: Sequence[tuple[int, ...]],
    batches: tuple[int, int],
) -> dict[str, dict[int, str]]:
    """The axes that differ between two inputs, named ``batch`` or after the input and the axis."""
    axes: dict[str, dict[int, str]] = {}
    for name, before, after in zip(names, first, second, strict=True):
        for axis, sizes in enumerate(zip(before, after, strict=True)):
            if sizes[0] != sizes[1]:
                axes.setdefault(name, {})[axis] = axis_name(name, axis, sizes, batches)
    return axes


def _copy(module: torch.nn.Module) -> torch.nn.Module:
    # Exporting a ScriptModule inlines its graph in place, which drops the scopes and node names.
    buffer = io.BytesIO()
    with TORCHSCRIPT_IS_FINE.made(), quiet():
        torch.jit.save(module, buffer)
        buffer.seek(0)
        copied: torch.nn.Module = torch.jit.load(buffer)  # type: ignore[no-untyped-call]
    return copied
