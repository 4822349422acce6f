"""Finds the operator that ONNX lacks in the user's code, for the message of a failed export."""

from __future__ import annotations

import re
from pathlib import PurePath

from torch import fx
from torch.export import ExportedProgram

from deployfold.errors import ExportError

_OPERATOR = re.compile(r"\baten(?:::|\.)(\w+)")
_LINE = re.compile(r'File "([^"]+)", line (\d+)')


def unsupported(program: ExportedProgram | None, torchscript: str, dynamo: str) -> ExportError:
    """The error of a model that neither exporter takes.

    Args:
        torchscript, dynamo: why the two exporters failed.
    """
    lacking = "" if program is None else _lacking(program, f"{torchscript} {dynamo}")
    return ExportError(
        f"Neither ONNX exporter takes this model. {lacking}TorchScript-based: "
        f"{torchscript.rstrip('.')}. Dynamo: {dynamo.rstrip('.')}.",
        hint="Write that line with other operators, or end the forward before it."
        if lacking
        else "Remove the operation in the message, or give the model as TorchScript.",
    )


def _lacking(program: ExportedProgram, reasons: str) -> str:
    """A sentence on the operator of the program that the reasons name; empty if they name none."""
    for name in _OPERATOR.findall(reasons):
        for node in program.graph.nodes:
            if node.op == "call_function" and str(node.target).startswith(f"aten.{name}."):
                return f"ONNX has no operator for aten::{name}, {_place(node)}. "
    return ""


def _place(node: fx.Node) -> str:
    modules = list(node.meta.get("nn_module_stack", {}).values())
    path = re.sub(r"^L\['self'\]\.?", "", str(modules[-1][0])) if modules else ""
    lines = _LINE.findall(node.meta.get("stack_trace") or "")
    where = f" ({PurePath(lines[-1][0]).name}:{lines[-1][1]})" if lines else ""
    return f"which {f'the module {path!r}' if path else 'the model'} calls{where}"
