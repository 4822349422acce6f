"""torch's two ONNX exporters behind one shape: each returns the graph as an ``onnx_ir`` model."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from deployfold.util.quiet import TORCHSCRIPT_IS_FINE, quiet
from deployfold.util.serial import ONE_AT_A_TIME

from .baked import baked_note, noting_baked
from .onnx_graph import axis_name
from .outputs import FlatOutputs, is_flat, is_torchscript

OPSET = 20
"""The newest that the TorchScript-based exporter writes and that TensorRT 10.3's parser reads."""


def dynamo(
    program: ExportedProgram, input_names: Sequence[str], output_names: Sequence[str]
) -> ir.Model:
    """The ONNX of an exported program, by the exporter that torch recommends.

    Raises whatever torch raises.
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
    assert result is not None
    model = result.model
    assert isinstance(model, ir.Model)
    return model


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
        outputs: what the eager module returned, nested as it is.

    Returns:
        The model, and a note on what tracing kept of the inputs. Raises whatever torch raises.
    """
    if is_torchscript(module):
        module = _copy(module)
    if not is_flat(outputs):
        # The exporter flattens dicts in an order of its own.
        module = FlatOutputs(module)
    with (
        tempfile.TemporaryDirectory() as directory,
        TORCHSCRIPT_IS_FINE.made(),
        quiet(native=True),
        noting_baked() as baked,
        torch.no_grad(),
    ):
        # A file, not a buffer: over 2 GB the exporter writes external data beside it.
        path = Path(directory) / "model.onnx"
        torch.onnx.export(
            module,
            inputs,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_axes=axes or None,
            verbose=False,
        )
        model = ir.load(path)
        # External tensors are memory-mapped; the directory goes away.
        ir.external_data.load_to_model(model)
    return model, baked_note(baked)


def dynamic_axes(
    names: Sequence[str],
    first: Sequence[tuple[int, ...]],
    second: Sequence[tuple[int, ...]],
    batches: tuple[int, int],
) -> dict[str, dict[int, str]]:
    """The axes that differ between two inputs: ``batch``, or a name made of name and axis."""
    axes: dict[str, dict[int, str]] = {}
    for name, before, after in zip(names, first, second, strict=True):
        for axis, sizes in enumerate(zip(before, after, strict=True)):
            if sizes[0] != sizes[1]:
                axes.setdefault(name, {})[axis] = axis_name(name, axis, sizes, batches)
    return axes


def _copy(module: torch.nn.Module) -> torch.nn.Module:
    # Running or exporting it inlines its graph in place: scopes go, and with them the node names.
    buffer = io.BytesIO()
    with TORCHSCRIPT_IS_FINE.made(), quiet():
        torch.jit.save(module, buffer)
        buffer.seek(0)
        copied: torch.nn.Module = torch.jit.load(buffer)  # type: ignore[no-untyped-call]
    return copied
