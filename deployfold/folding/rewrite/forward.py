"""Rewriting the forward of one module with ``torch.fx``, where an operator has no module to remove.

Examples are ``F.batch_norm`` called in a forward and the graph modules that ``torch.export`` makes.
Only the module itself is traced; its children stay as they are.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from deployfold.errors import FoldError, first_line

_OPERATORS = {
    "truediv": "div",
    "iadd": "add_",
    "isub": "sub_",
    "imul": "mul_",
    "itruediv": "div_",
}
"""The torch name of each Python operator whose name differs from it."""


_WITHOUT_BIAS = frozenset(
    """matmul mm bmm mv einsum inner tensordot addmm baddbmm addbmm addmv linalg_multi_dot
    chain_matmul""".split()
)
"""Products that take no further bias, so that folding adds one to their result."""


def cannot_rewrite(module: nn.Module, op_name: str, occurrence: int) -> str | None:
    """Why ``torch.fx`` cannot remove an operator from the forward of ``module``; None if it can."""
    if op_name.endswith("_"):
        return f"{type(module).__name__}.forward calls {op_name}, which works in place"
    if "forward" in vars(module):  # torch.fx would trace the forward of the class
        return f"{type(module).__name__}.forward calls it, and was replaced on this module"
    try:
        graph = _graph_of(module)
    except Exception as error:
        name, why = type(module).__name__, first_line(error)
        return f"{name}.forward calls it, and torch.fx cannot trace that: {why}"
    if _find(graph, op_name, occurrence) is None:
        return f"{type(module).__name__}.forward calls it in a way that torch.fx does not show"
    return None


def rewrite_forward(
    module: nn.Module,
    *,
    bypass: Iterable[tuple[str, int]],
    biases: Iterable[tuple[str, int, nn.Parameter]],
    shifts: Iterable[tuple[str, int, Tensor]] = (),
) -> fx.GraphModule:
    """Return a module with the same children and state whose forward lacks some operators.

    Args:
        bypass: operators to replace by their input, as name and occurrence.
        biases: layers to give a bias, as name, occurrence and value; the value of a product has a
            shape that broadcasts against the result.
        shifts: operators to replace by the addition of a constant: name, occurrence, constant.

    Raises:
        FoldError: the ``torch.fx`` trace lacks one of these operators.
    """
    graph = _graph_of(module)
    doomed = [_need(graph, name, occurrence, module) for name, occurrence in bypass]
    for name, occurrence, bias in biases:
        node = _need(graph, name, occurrence, module)
        attribute = f"folded_bias_{name}_{occurrence}"
        module.register_parameter(attribute, bias)
        with graph.inserting_before(node):
            source = graph.get_attr(attribute)
        position = 3 if name == "bilinear" else 2
        if name in _WITHOUT_BIAS:
            with graph.inserting_after(node):
                total = graph.call_function(torch.add, (node, source))
            node.replace_all_uses_with(total)
            total.update_arg(0, node)
            continue
        given = node.args[position] if len(node.args) > position else node.kwargs.get("bias")
        if isinstance(given, fx.Node):  # a bias that the forward computes
            with graph.inserting_before(node):
                source = graph.call_function(torch.add, (given, source))
        if len(node.args) > position:
            node.update_arg(position, source)
        else:
            node.update_kwarg("bias", source)
    for name, occurrence, shift in shifts:
        node = _need(graph, name, occurrence, module)
        attribute = f"folded_shift_{name}_{occurrence}"
        module.register_buffer(attribute, shift)
        with graph.inserting_before(node):
            sum_of = (_data_of(node), graph.get_attr(attribute))
            node.replace_all_uses_with(graph.call_function(torch.add, sum_of))
        graph.erase_node(node)
    for node in doomed:
        node.replace_all_uses_with(_data_of(node))
        graph.erase_node(node)
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op != "output" and _is_constant(node):
            graph.erase_node(node)
    graph.lint()
    result = fx.GraphModule(module, graph, type(module).__name__)
    if isinstance(module, fx.GraphModule):
        result.meta = module.meta
    else:
        result.train(module.training)
    result.delete_all_unused_submodules()
    used = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in result.named_parameters(recurse=False) if name not in used]:
        delattr(result, name)
    return result


def _graph_of(module: nn.Module) -> fx.Graph:
    if isinstance(module, fx.GraphModule):
        return module.graph
    return _ShallowTracer().trace(module)


class _ShallowTracer(fx.Tracer):
    """A tracer that enters one module's forward and none of its children's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _data_of(node: fx.Node) -> fx.Node:
    """The first input of ``node`` that depends on the module's input; without one, ``node``."""
    return next((item for item in node.all_input_nodes if not _is_constant(item)), node)


def _is_constant(node: fx.Node) -> bool:
    return node.op != "placeholder" and all(map(_is_constant, node.all_input_nodes))


def _need(graph: fx.Graph, op_name: str, occurrence: int, module: nn.Module) -> fx.Node:
    node = _find(graph, op_name, occurrence)
    if node is None:
        raise FoldError(f"torch.fx does not find {op_name} in {type(module).__name__}.forward.")
    return node


def _find(graph: fx.Graph, op_name: str, occurrence: int) -> fx.Node | None:
    matching = [node for node in graph.nodes if _name(node) == op_name]
    return matching[occurrence] if occurrence < len(matching) else None


def _name(node: fx.Node) -> str:
    target: Any = node.target
    if node.op == "call_method":
        return str(target)
    if node.op != "call_function":
        return ""
    name = str(getattr(target, "__name__", "")).partition(".")[0]
    if target is operator.sub and not isinstance(node.args[0], fx.Node):
        return "rsub"  # a number minus a tensor
    return _OPERATORS.get(name, name)
