"""Finds the affine parameters of LayerNorm, RMSNorm, GroupNorm and InstanceNorm.

``y = weight * normalised(x) + bias`` ends in a channel-wise affine map. The map may fold into the
layers behind the norm, or take up a BatchNorm behind the norm. The normalisation itself uses
statistics of the input and stays.
"""

from __future__ import annotations

from torch import Tensor, nn

from deployfold.folding.algebra import Affine
from deployfold.folding.plan import DropAffine

from .affine_layer import AffineLayer
from .graph import Graph, Op, Value, affine_op, forward_of, has_hooks

_OPERATORS = {
    "layer_norm": ("LayerNorm", -1),
    "rms_norm": ("RMSNorm", -1),
    "group_norm": ("GroupNorm", 1),
    "instance_norm": ("InstanceNorm", 1),
}
"""The class name of each operator in reports, and the channel axis of its weight."""

_RMS_NORM = getattr(nn, "RMSNorm", nn.LayerNorm)  # since torch 2.4
_FORWARDS = {kind.forward for kind in (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, _RMS_NORM)}
"""The forwards of torch's norms that also run with ``None`` for the weight and the bias."""


def norm_affines(graph: Graph, tensors: dict[str, Tensor]) -> list[AffineLayer]:
    """Find the affine part of every norm, and make it a separate operator of ``graph``."""
    found: dict[str, AffineLayer] = {}
    for op in graph.ops:
        if op.name not in _OPERATORS or not _is_plain(graph, op):
            continue
        kind, axis = _OPERATORS[op.name]
        path = op.call.path
        if path not in found:
            scale = tensors[f"{path}.weight"].detach().double()
            bias = op.arguments.get("bias")
            shift = 0 * scale if bias is None else tensors[f"{path}.bias"].detach().double()
            found[path] = AffineLayer(
                name=path,
                module_path=path,
                is_batchnorm=False,
                axis=axis,
                affine=Affine(scale.cpu(), shift.cpu(), bias is not None),
                removals=(DropAffine(path),),
                kind=kind,
                editable=kind != "RMSNorm",  # which has no bias
            )
        found[path].sites.append(_split(graph, op, axis))
    return [item for item in found.values() if item.affine.finite]


def _is_plain(graph: Graph, op: Op) -> bool:
    """Whether ``op`` belongs to one of torch's norm classes and its weight vector is not shared."""
    module, path, weight = op.call.module, op.call.path, op.arguments.get("weight")
    bias = op.arguments.get("bias")
    names = {value.name for value in (weight, bias) if value is not None}
    return (
        forward_of(module) in _FORWARDS
        and not has_hooks(module)
        and weight is not None
        and len(weight.shape) == 1
        and weight.name == f"{path}.weight"
        and names <= {f"{path}.weight", f"{path}.bias"}
        and not names & graph.mutated
        and not op.inputs[0].constant
        and op.arguments.get("running_mean") is None
        and all(
            user.call.path == path for name in names for user in graph.constants[name].consumers
        )
    )


def _split(graph: Graph, op: Op, axis: int) -> Op:
    """Remove the affine part from ``op`` and return the new operator that computes it."""
    for name in ("weight", "bias"):
        value: Value | None = op.arguments.get(name)
        if value is not None:
            value.drop_reader(op)
            op.inputs = [item for item in op.inputs if item is not value]
    result = op.output
    middle = Value(result.shape, result.dtype, producer=op)
    op.outputs = [middle]
    affine = affine_op(middle, result, axis, op.call)
    graph.operators[affine] = graph.operators[op]  # equal positions keep the order of entry
    return affine
