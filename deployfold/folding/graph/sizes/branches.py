"""Branches on numbers that a forward's code computes from sizes, found in the code's source.

:class:`.Size` numbers report how they are compared; :class:`.Flows` follow the others.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from opcode import opname
from pathlib import Path
from types import CodeType

import torch
from torch import nn

from .flow import Flow
from .functions import Flows
from .kinds import HIDDEN, Kind
from .readers import Reader


def tests_of(readers: Mapping[CodeType, Reader], model: nn.Module) -> list[tuple[str, bool]]:
    """The places, as file and line, where the code depends on a number that reports nothing.

    ``readers`` are the functions that read sizes, and those that called them.
    The code branches there (True), or takes the least or largest of several numbers (False).
    """
    flows = Flows(readers, model).all()
    return list(dict.fromkeys(place for flow in flows for place in _tests(flow)))


def scripted_tests(model: nn.Module) -> Iterator[str]:
    """The TorchScript modules and functions of a model that read a size and branch, unseen."""
    scripts: dict[str, object] = {
        path: module.inlined_graph
        for path, module in model.named_modules()
        if isinstance(module, torch.jit.ScriptModule)
    }
    holders = {holder for module in model.modules() for holder in (module, type(module))}
    functions = (item for one in holders for item in vars(one).values() if inspect.isfunction(item))
    for function in functions:
        for name in function.__code__.co_names:
            item = function.__globals__.get(name)
            if isinstance(item, torch.jit.ScriptFunction):
                scripts[name] = item.inlined_graph
    for name, graph in scripts.items():
        text = str(graph)
        if "prim::If" in text and "aten::size" in text:
            yield f"{name} in TorchScript"


def _tests(flow: Flow) -> Iterator[tuple[str, bool]]:
    code = flow.reader.code
    file = Path(code.co_filename).name
    if len(flow.nodes) == 1 and flow.reader.lines["read"] and _branches(code):
        yield f"{file}:{code.co_firstlineno}", True
    checks = {inner for node in flow.nodes for inner in _checks_of(node)}
    for node in flow.nodes:
        if node in checks:
            continue
        line = getattr(node, "lineno", 0)
        for test in _tested(node):
            if flow.kind(test) & HIDDEN:
                yield f"{file}:{test.lineno}", True
        if isinstance(node, (ast.For, ast.comprehension)):
            turns = flow.items(node.iter)
            if turns & HIDDEN and turns & Kind.LESS:  # no turn at all, at some sizes
                yield f"{file}:{node.iter.lineno}", True
        elif (line in flow.reader.lines["lookup"] and _looks_up(flow, node)) or _chooses(
            flow, node
        ):
            yield f"{file}:{line}", True
        bounds = isinstance(node, ast.Call) and ast.unparse(node.func) in ("min", "max")
        if bounds and flow.kind(node) & Kind.PLAIN:
            yield f"{file}:{line}", False


def _branches(code: CodeType) -> bool:
    """Whether a function branches, for a function without source."""
    names = {opname[one] for one in code.co_code[::2]}
    return any("JUMP" in name and "_IF_" in name for name in names)


def _tested(node: ast.AST) -> list[ast.expr]:
    """The expressions by which ``node`` chooses, where their value is not used otherwise."""
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        return [node.test]
    if isinstance(node, ast.Compare):
        return [node]
    if isinstance(node, ast.comprehension):
        return node.ifs
    if isinstance(node, ast.BoolOp):
        return node.values
    if isinstance(node, ast.Match):
        return [node.subject]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.args[:1] if node.func.attr == "get" else []
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict):
        return [node.slice]
    return []


def _chooses(flow: Flow, node: ast.AST) -> bool:
    """Whether a number chooses one of several modules, or whether an item is there to be read."""
    if isinstance(node, ast.Subscript):
        place = flow.named.get(ast.unparse(node.value), node.value)
        several = isinstance(place, (ast.List, ast.Tuple)) and bool(place.elts)
        several = several or flow.reader.holds_several(node.value)
        chosen = flow.kind(node.slice) & (HIDDEN | Kind.WATCHED)
        return several and bool(chosen) and ast.unparse(node.value) not in flow.filled
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        kinds = [flow.kind(argument) for argument in node.args]
        if node.func.id == "getattr" or (node.func.id == "next" and len(kinds) > 1):
            return any(kind & HIDDEN for kind in kinds)
        several = any(map(flow.reader.holds_several, node.args))  # how many of them run
        return node.func.id == "zip" and several and any(kind & HIDDEN for kind in kinds)
    if isinstance(node, ast.Try) and any(
        not isinstance(h.body[-1], ast.Raise) for h in node.handlers
    ):
        inside = [item for statement in node.body for item in ast.walk(statement)]
        return any(
            (isinstance(item, ast.Subscript) and flow.kind(item.value) & Kind.PIECES)
            or (isinstance(item, ast.Call) and any(map(flow.kind, item.args)))
            for item in inside
        )
    return False


def _looks_up(flow: Flow, node: ast.AST) -> bool:
    """Whether ``node`` chooses by a key, from what the function itself does not fill."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        place = node.value
        if flow.kind(place):  # one size of a shape
            return False
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        place = node.func.value
        if node.func.attr != "get":
            return False
    elif isinstance(node, ast.Compare) and isinstance(node.ops[-1], (ast.In, ast.NotIn)):
        place = node.comparators[-1]
    else:
        return False
    return ast.unparse(place) not in flow.filled


def _checks_of(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes inside a check whose failure raises: the model then refuses the input."""
    if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise) and not node.orelse:
        yield node
        yield from ast.walk(node.test)
    elif isinstance(node, ast.Assert) or (
        isinstance(node, ast.Call) and ast.unparse(node.func).endswith("_assert")
    ):
        yield from ast.walk(node)
