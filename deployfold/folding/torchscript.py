"""Folding a TorchScript model in its graph, where there is no eager code to rewrite.

``torch.jit.freeze`` folds a convolution or linear layer with the BatchNorm right behind it. What
it leaves is counted and named; what it did is proved as for eager models.
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
from .proof.verify import Verification
from .result import FoldResult

_RULE = "into the producer, by torch.jit.freeze"
_REASON = "torch.jit.freeze does not fold it; give the eager model or its state dict to fold more"
_FIRST_MARK = float(1 << 20)
"""What the first buffer is filled with to know it again in a frozen graph."""


@TORCHSCRIPT_IS_FINE.made()
def fold_torchscript(
    module: torch.jit.ScriptModule,
    example_inputs: tuple[Any, ...],
    *,
    more_inputs: Sequence[tuple[Any, ...]] = (),
    tolerance: float = 1e-9,
) -> FoldResult:
    """Fold the BatchNorms of a TorchScript model that ``torch.jit.freeze`` can fold.

    Raises:
        FoldError: the model is in training mode or cannot be frozen, or the frozen one is another
            function.
    """
    if getattr(module, "training", False):  # a frozen module has no such attribute
        raise FoldError(
            "The TorchScript model is in training mode.", hint="Call its eval() before folding."
        )
    inputs = [example_inputs, *more_inputs, random_like(example_inputs)]
    names = [_name(node) for node in _batch_norms(module.inlined_graph)]
    parameters = sum(parameter.numel() for parameter in module.parameters())
    try:
        if parameters:
            wide = _in_float64(module)
            frozen = torch.jit.freeze(wide)
            exact = max(_apart(wide, frozen, double_inputs(item)).relative for item in inputs)
            after, learned = _what_stays(wide, names)
            del wide
            frozen = torch.jit.freeze(module)
        else:  # it is frozen already, and nothing of it changes
            frozen, exact, after = module, 0.0, names
            parameters = learned = _learned(module.graph)
        native = [_apart(module, frozen, item) for item in inputs]
    except RuntimeError as error:
        raise FoldError(
            f"The TorchScript model cannot be frozen or run: {first_line(error)}",
            hint="Check --input, give the values that the model needs by --input-data, or give the "
            "eager model instead.",
        ) from error
    if not exact <= tolerance:
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
            original_relative=None,
        ),
        notes=("TorchScript is folded in its graph; there is no eager model to fold.",),
    )


def _apart(before: Any, after: Any, inputs: tuple[Any, ...]) -> Difference:
    return difference(run_model(before, inputs), run_model(after, inputs))


def _in_float64(module: Any) -> Any:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)  # a deep copy would share the graph that runs have specialised
    buffer.seek(0)
    return torch.jit.load(buffer).double()  # type: ignore[no-untyped-call]


def _what_stays(module: Any, names: Sequence[str]) -> tuple[list[str], int]:
    """What ``torch.jit.freeze`` leaves: the names of the BatchNorms, and the learned scalars.

    A frozen graph holds constants without names, and equal ones once. So every tensor of
    ``module``, which is used up, is first given numbers of its own; freezing goes by shapes alone.

    Args:
        names: of each batch norm of its graph, in order.
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
    """Every node of a graph that is a batch norm with running statistics."""
    found = [node for node in _nodes(graph) if node.kind() == "aten::batch_norm"]
    return [node for node in found if _mean(node).output().type().kind() != "NoneType"]


def _mean(node: Any) -> Any:
    """The node that the running mean of a batch norm comes from."""
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
    """The scalars of all floating-point constants of a frozen graph but those of buffers: means and
    variances, and what :func:`_what_stays` has marked."""
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
