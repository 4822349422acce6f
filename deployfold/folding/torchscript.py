"""Folding a TorchScript model in its graph, because there is no eager code to rewrite.

``torch.jit.freeze`` folds each BatchNorm into the convolution or linear layer right in front of it.
This file counts and names the BatchNorms that freezing leaves, and compares the frozen model with
the original in float64, as for eager models.
"""

from __future__ import annotations

import io
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from deployfold.errors import FoldError, first_line
from deployfold.util.quiet import TORCHSCRIPT_IS_FINE

from .plan import Folded, Left
from .proof.compare import Difference, difference, double_inputs, random_like, run_model
from .proof.verify import TOLERANCE, Verification
from .result import FoldResult

_RULE = "into the producer, by torch.jit.freeze"
_REASON = "torch.jit.freeze does not fold it; give the eager model or its state dict to fold more"
_FIRST_MARK = float(1 << 20)
"""The number that fills the first buffer, so that a frozen graph shows which buffer it was."""


@TORCHSCRIPT_IS_FINE.made()
def fold_torchscript(
    module: torch.jit.ScriptModule,
    example_inputs: tuple[Any, ...],
    *,
    more_inputs: Sequence[tuple[Any, ...]] = (),
) -> FoldResult:
    """Fold the BatchNorms of a TorchScript model that ``torch.jit.freeze`` can fold.

    Args:
        module: a TorchScript model in evaluation mode, which stays unchanged.

    Raises:
        FoldError: the model is in training mode or cannot be frozen or run, or the frozen model
            computes another function.
    """
    if getattr(module, "training", False):  # a frozen module lacks this attribute
        raise FoldError(
            "The TorchScript model is in training mode.", hint="Call its eval() before folding."
        )
    inputs = [example_inputs, *more_inputs, random_like(example_inputs)]
    names = [_name(node) for node in _batch_norms(module.inlined_graph)]
    parameters = sum(parameter.numel() for parameter in module.parameters())
    try:
        if parameters and not names:  # nothing to fold
            frozen, exact, after, learned = module, 0.0, names, parameters
        elif parameters:
            wide = _in_float64(module)
            frozen = torch.jit.freeze(wide)
            exact = max(_apart(wide, frozen, double_inputs(item)).relative for item in inputs)
            after, learned = _left_by_freezing(wide, names)
            del wide
            frozen = torch.jit.freeze(module)
        else:  # the model is frozen already and stays as it is
            frozen, exact, after = module, 0.0, names
            parameters = learned = _learned(module.graph)
        native = [_apart(module, frozen, item) for item in inputs]
    except (RuntimeError, torch.jit.Error) as error:
        raise FoldError(
            f"The TorchScript model cannot be frozen or run: {first_line(error)}",
            hint="Check --input, give the values that the model needs by --input-data (an "
            "integer input without data is 0 or 1), or give the eager model instead.",
        ) from error
    if not exact <= TOLERANCE:
        raise FoldError(
            f"The frozen TorchScript differs from the original by {exact:.1e} (relative, float64).",
            hint="Give the eager model or its state dict instead.",
        )
    before = len(names)
    names, left = [*dict.fromkeys(names)], {*after}
    return FoldResult(
        model=frozen,
        folded=tuple(Folded(name, _RULE, ()) for name in names if name not in left),
        left=tuple(Left(name, _REASON) for name in names if name in left),
        parameters_before=parameters,
        parameters_after=learned,
        batchnorms_before=before,
        batchnorms_after=len(after),
        verification=Verification(
            inputs=len(inputs),
            float64_relative=exact,
            native_relative=max(item.relative for item in native),
            native_max_abs=max(item.absolute for item in native),
        ),
        notes=("TorchScript is folded in its graph; there is no eager model to fold.",),
    )


def _apart(before: Any, after: Any, inputs: tuple[Any, ...]) -> Difference:
    return difference(run_model(before, inputs), run_model(after, inputs))


def _in_float64(module: Any) -> Any:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)  # a deep copy would share the graph, which runs specialise
    buffer.seek(0)
    return torch.jit.load(buffer).double()  # type: ignore[no-untyped-call]


def _left_by_freezing(module: Any, names: Sequence[str]) -> tuple[list[str], int]:
    """Find what ``torch.jit.freeze`` leaves: names of BatchNorms and number of learned scalars.

    A frozen graph holds constants without names, and equal constants once. The function therefore
    first gives every tensor of ``module`` distinct numbers; freezing depends only on shapes.

    Args:
        module: the model, which the function overwrites; do not use it again.
        names: the name of each batch norm of the model's graph, in order.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(drawn)
        for number, buffer in enumerate(module.buffers()):
            if buffer.is_floating_point():
                buffer.fill_(_FIRST_MARK + number)
    marked: dict[float, str] = {}
    for node, name in zip(_batch_norms(module.inlined_graph), names, strict=True):
        mean = operator.attrgetter(_path(_mean(node)))(module) if _path(_mean(node)) else None
        if mean is not None:
            marked[float(mean.flatten()[0])] = name
    graph = torch.jit.freeze(module).graph
    left = [_mean(node) for node in _batch_norms(graph)]
    return [_marked_name(mean, marked) for mean in left], _learned(graph)


def _marked_name(mean: Any, marked: dict[float, str]) -> str:
    if not mean.hasAttribute("value") or mean.kindOf("value") != "t":
        return ""
    return marked.get(float(mean.t("value").flatten()[0]), "")


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from _nodes(block)


def _batch_norms(graph: Any) -> list[Any]:
    """All nodes of a graph that are batch norms with running statistics."""
    found = [node for node in _nodes(graph) if node.kind() == "aten::batch_norm"]
    return [node for node in found if _mean(node).output().type().kind() != "NoneType"]


def _mean(node: Any) -> Any:
    """The node that supplies the running mean of a batch norm."""
    return list(node.inputs())[3].node()


def _name(node: Any) -> str:
    """The path of the module that holds a batch norm's running mean; empty in a frozen graph."""
    return _path(_mean(node)).rpartition(".")[0]


def _path(node: Any) -> str:
    names: list[str] = []
    while node.kind() == "prim::GetAttr":
        names.append(node.s("name"))
        node = next(iter(node.inputs())).node()
    return ".".join(reversed(names))


def _learned(graph: Any) -> int:
    """Count the learned scalars of a frozen graph: its floating-point constants except buffers.

    Buffers are running means and variances, and constants that :func:`_left_by_freezing` marked.
    """
    statistics = {
        value.debugName()
        for node in _nodes(graph)
        if node.kind() == "aten::batch_norm"
        for value in list(node.inputs())[3:5]
    }
    total = 0
    for node in _nodes(graph):
        if node.kind() != "prim::Constant" or not node.hasAttribute("value"):
            continue
        if node.kindOf("value") == "t" and node.output().debugName() not in statistics:
            tensor = node.t("value")
            learned = tensor.is_floating_point() and tensor.dim() > 0 and tensor.numel() > 0
            if learned and not bool(
                (tensor == tensor.flatten()[0]).all() & (tensor >= _FIRST_MARK).all()
            ):
                total += tensor.numel()
    return total
