"""Folding a TorchScript model in its graph, where there is no eager code to rewrite.

``torch.jit.freeze`` folds a convolution or linear layer with the BatchNorm right behind it. What
it leaves is counted and named; what it did is proved as for eager models.
"""

from __future__ import annotations

import io
import operator
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from deployfold.errors import FoldError, first_line

from .plan import Folded, Left
from .proof.compare import Difference, difference, double_inputs, random_like, run_model
from .proof.verify import Verification
from .result import FoldResult

_RULE = "into the producer, by torch.jit.freeze"
_REASON = "torch.jit.freeze does not fold it; give the eager model or its state dict to fold more"


def fold_torchscript(
    module: torch.jit.ScriptModule,
    example_inputs: tuple[Any, ...],
    *,
    more_inputs: Sequence[tuple[Any, ...]] = (),
    tolerance: float = 1e-9,
) -> FoldResult:
    """Fold the BatchNorms of a TorchScript model that ``torch.jit.freeze`` can fold.

    Raises:
        FoldError: the model cannot be frozen, or the frozen one is another function.
    """
    inputs = [example_inputs, *more_inputs, random_like(example_inputs)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls TorchScript deprecated at every use
            frozen = _freeze(module)
            native = [_apart(module, frozen, item) for item in inputs]
            exact = 0.0 if frozen is module else _apart_in_float64(module, inputs)
    except RuntimeError as error:
        raise FoldError(
            f"The TorchScript model cannot be frozen or run: {first_line(error)}",
            hint="Check --input, or give the eager model instead.",
        ) from error
    if not exact <= tolerance:
        raise FoldError(
            f"The frozen TorchScript differs from the original by {exact:.1e} (relative, float64).",
            hint="Give the eager model or its state dict instead.",
        )
    before, after = _batch_norms(module), _batch_norms(frozen)
    left = [name for name, mean in before if any(torch.equal(mean, kept) for _, kept in after)]
    return FoldResult(
        model=frozen,
        folded=tuple(Folded(name, _RULE, ()) for name, _ in before if name not in left),
        left=tuple(Left(name, _REASON) for name in left),
        parameters_before=sum(p.numel() for p in module.parameters()) or _constants(module, module),
        parameters_after=_constants(frozen, module),
        batchnorms_before=len(before),
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


def _apart_in_float64(module: Any, inputs: Sequence[tuple[Any, ...]]) -> float:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)  # a deep copy would share the graph that runs have specialised
    buffer.seek(0)
    wide = torch.jit.load(buffer).double()  # type: ignore[no-untyped-call]
    frozen = _freeze(wide)
    return max(_apart(wide, frozen, double_inputs(item)).relative for item in inputs)


def _freeze(module: Any) -> Any:
    if next(module.parameters(), None) is None:  # frozen already
        return module
    return torch.jit.freeze(module.eval())


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from _nodes(block)


def _batch_norms(module: Any) -> list[tuple[str, torch.Tensor]]:
    """Every BatchNorm of the graph: the path of the module that holds its running mean, and that
    mean; in a frozen graph, where the mean is a constant, without the path."""
    found = []
    for node in _nodes(module.inlined_graph):
        if node.kind() == "aten::batch_norm":
            mean = list(node.inputs())[3].node()
            if mean.kind() == "prim::Constant":
                found.append(("", mean.t("value")))
            else:
                path = _attribute_path(mean)
                found.append((path.rpartition(".")[0], operator.attrgetter(path)(module)))
    return found


def _attribute_path(node: Any) -> str:
    names: list[str] = []
    while node.kind() == "prim::GetAttr":
        names.append(node.s("name"))
        node = next(iter(node.inputs())).node()
    return ".".join(reversed(names))


def _constants(graph_of: Any, module: Any) -> int:
    """The scalars of all floating-point constants of a frozen graph that were no buffers."""
    nodes = list(_nodes(graph_of.graph))
    statistics = {
        name.debugName()
        for node in nodes
        if node.kind() == "aten::batch_norm"
        for name in list(node.inputs())[3:5]
    }
    # A statistic may equal a bias by value, so those are told apart by their use.
    buffers = [tensor for name, tensor in module.named_buffers() if "running_" not in name]
    total = 0
    for node in nodes:
        if node.kind() != "prim::Constant" or not node.hasAttribute("value"):
            continue
        if node.kindOf("value") == "t" and node.output().debugName() not in statistics:
            tensor = node.t("value")
            learned = tensor.is_floating_point() and tensor.dim() > 0
            if learned and not any(torch.equal(tensor, buffer) for buffer in buffers):
                total += tensor.numel()
    return total
