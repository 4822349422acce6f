"""Finds the nodes that the user keeps in fp32 with ``--keep-fp32`` and ``--keep-fp32-op``."""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterable
from fnmatch import fnmatchcase

import onnx
import onnx_ir as ir

from deployfold.config.accuracy import KeepSpec
from deployfold.errors import UsageError
from deployfold.exporting.onnx_graph import MODULE_KEY


def asked_for(model: ir.Model, keep: KeepSpec) -> dict[str, str]:
    """The nodes of the main graph that the user keeps in fp32, as reasons by node name.

    A pattern matches a node by the node's name, by the module of the node, or by any module
    that contains the module: ``head`` and ``head*`` match all of ``head.conv1``.

    Raises:
        UsageError: a pattern matches nothing, or an operator does not exist.
    """
    kept: dict[str, str] = {}
    names = {node: _names(node) for node in model.graph}
    for pattern in keep.names:
        found = [n for n, own in names.items() if any(fnmatchcase(one, pattern) for one in own)]
        if not found:
            raise UsageError(
                f"--keep-fp32 {pattern}: no node or module of the model has such a name.",
                hint=_near(pattern, {one for own in names.values() for one in own}),
            )
        for node in found:
            kept.setdefault(str(node.name), f"--keep-fp32 {pattern}")
    check_operators(keep, {node.op_type for node in model.graph})
    for op_type in keep.operators:
        for node in model.graph:
            if node.op_type == op_type:
                kept.setdefault(str(node.name), f"--keep-fp32-op {op_type}")
    return kept


def _names(node: ir.Node) -> set[str]:
    """The node's name, its module and the modules of its weights, and all modules around these."""
    names = {str(node.name)} if node.name else set()
    modules = {str(node.metadata_props.get(MODULE_KEY, ""))}
    modules |= {
        str(value.name).rpartition(".")[0]
        for value in node.inputs
        if value is not None and value.is_initializer()
    }
    for module in modules - {""}:
        parts = module.split(".")
        names |= {".".join(parts[: count + 1]) for count in range(len(parts))}
    return names


def check_operators(keep: KeepSpec, known: Container[str] = ()) -> None:
    """Raise unless the ONNX standard or the model has every operator of ``--keep-fp32-op``.

    A standard operator that the model lacks is allowed, because a profile may serve several models.

    Args:
        known: the operators of the model; none before the export, which writes standard ones.

    Raises:
        UsageError: an operator does not exist.
    """
    for op_type in keep.operators:
        if op_type in known or onnx.defs.has(op_type):
            continue
        standard = {schema.name for schema in onnx.defs.get_all_schemas()}
        raise UsageError(
            f"--keep-fp32-op {op_type}: ONNX has no such operator.", hint=_near(op_type, standard)
        )


def _near(wanted: str, names: Iterable[str]) -> str:
    lower = {name.lower(): name for name in sorted(names)}
    near = difflib.get_close_matches(wanted.lower().strip("*"), lower, n=3, cutoff=0.3)
    if near:
        return f"Near to it: {', '.join(lower[one] for one in near)}. * stands for any characters."
    return "* stands for any characters; the names are those in the ONNX file."
