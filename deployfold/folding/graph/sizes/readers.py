"""The functions of a model's code that read sizes, and the source of functions."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import ChainMap, defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, Literal, TypeGuard

import torch
from torch import nn

from deployfold.folding.graph.graph import forward_of

Use = Literal["read", "lookup", "split"]


class Reader:
    """A function that read sizes, or called one that did: its code, and the lines where it did.

    Attributes:
        owner: the object whose method it is, such as a module; otherwise any first argument.
        own: the name of that argument.
        lines: the lines that read a size, those that looked one up, and those that split an axis
            whose length differed between the passes.
    """

    def __init__(self, code: CodeType, names: Mapping[str, Any], owner: object) -> None:
        self.code, self.owner = code, owner
        self.own = (*code.co_varnames, "")[0]
        self.lines: defaultdict[Use, set[int]] = defaultdict(set)
        self._globals = names

    @classmethod
    def of(cls, frame: FrameType) -> Reader:
        """The reader of the function that ``frame`` runs."""
        code, inside = frame.f_code, frame.f_locals
        enclosed = {name: inside[name] for name in code.co_freevars if name in inside}
        names = ChainMap(enclosed, frame.f_globals)
        return cls(code, names, inside.get((*code.co_varnames, "")[0]))

    @classmethod
    def of_module(cls, module: nn.Module) -> Reader | None:
        """The reader of the forward of ``module``; None for a forward of torch."""
        forward = forward_of(module)
        known = _is_followed(forward)
        return cls(forward.__code__, forward.__globals__, module) if known else None

    @property
    def known(self) -> int:
        """A number that grows whenever a pass adds a line."""
        return sum(map(len, self.lines.values()))

    def is_own(self, node: ast.AST) -> bool:
        """Whether ``node`` is an attribute of the owner."""
        owned = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        return owned and node.value.id == self.own  # type: ignore[attr-defined]

    def holds_several(self, node: ast.AST) -> bool:
        """Whether ``node`` is an attribute of the owner that holds several modules or objects."""
        if not isinstance(node, ast.Attribute) or not self.is_own(node):
            return False
        held = (nn.ModuleList, nn.ModuleDict, nn.Sequential, nn.ParameterList, list, tuple, dict)
        return isinstance(_member(self.owner, node.attr), held)

    def function(self, node: ast.expr) -> tuple[Reader, bool] | None:
        """The function outside torch that ``node`` names, and whether its first argument is bound.

        A property is a function of its owner. The result is None if the source does not show which
        function runs.
        """
        found: Any = None
        owner = self.object_of(node.value) if isinstance(node, ast.Attribute) else None
        bound = False
        if isinstance(node, ast.Name):
            found = self._globals.get(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(owner, ModuleType):
            found = vars(owner).get(node.attr)
        elif isinstance(node, ast.Attribute) and owner is not None:
            found = _member(owner, node.attr)
            bound = isinstance(found, (FunctionType, classmethod, property))
            if isinstance(found, nn.Module):
                found, owner, bound = forward_of(found), found, True
            elif isinstance(found, property):
                found = found.fget
            elif isinstance(found, (staticmethod, classmethod)):
                found = found.__func__
        if not _is_followed(found):
            return None
        return Reader(found.__code__, found.__globals__, owner if bound else None), bound

    def object_of(self, node: ast.expr) -> Any:
        """The object or Python module that ``node`` names; None if the source does not show it."""
        if isinstance(node, ast.Name):
            found = self.owner if node.id == self.own else self._globals.get(node.id)
            return None if isinstance(found, torch.Tensor) else found
        owner = self.object_of(node.value) if isinstance(node, ast.Attribute) else None
        if owner is None or not isinstance(node, ast.Attribute):
            return None
        found = _member(owner, node.attr)
        return found if hasattr(found, "__dict__") and not torch.is_tensor(found) else None

    def is_torchs(self, node: ast.expr) -> bool:
        """Whether ``node`` is a function or module of torch, or a method that tensors have."""
        if not isinstance(node, ast.Attribute):
            found = self._globals.get(node.id) if isinstance(node, ast.Name) else None
            return str(getattr(found, "__module__", "")).startswith("torch")
        owner = self.object_of(node.value)
        if isinstance(owner, ModuleType):
            return owner.__name__.startswith("torch")
        of_module = isinstance(owner, nn.Module) and isinstance(
            _member(owner, node.attr), nn.Module
        )
        return of_module or hasattr(torch.Tensor, node.attr)

    def named(self) -> Iterator[Reader]:
        """The functions outside torch that the code may call: globals, and its owner's methods."""
        own = [item for base in type(self.owner).__mro__ for item in list(vars(base).values())]
        found = [(item.fget if isinstance(item, property) else item, self.owner) for item in own]
        outer = [self._globals.get(name) for name in self.code.co_names]
        modules = [vars(item) for item in outer if isinstance(item, ModuleType)]
        outer += [names.get(name) for names in modules for name in self.code.co_names]
        for function, owner in (*found, *((item, None) for item in outer)):
            if _is_followed(function):
                yield Reader(function.__code__, function.__globals__, owner)


def _is_followed(item: Any) -> TypeGuard[FunctionType]:
    """Whether ``item`` is a function outside torch with code in Python."""
    return isinstance(item, FunctionType) and not str(item.__module__).startswith("torch.")


def _member(owner: object, name: str) -> Any:
    """A member of an object or of its class, found without running code."""
    if isinstance(owner, torch.jit.ScriptModule):
        return None
    modules = vars(owner).get("_modules", {}) if isinstance(owner, nn.Module) else {}
    return modules.get(name) or inspect.getattr_static(owner, name, None)


@lru_cache(maxsize=1024)
def source_of(code: CodeType) -> ast.AST:
    """The syntax of a function, with the line numbers of its file; empty without a source."""
    try:
        lines, first = inspect.getsourcelines(code)
        try:
            tree = ast.parse(textwrap.dedent("".join(lines)))
        except SyntaxError:  # a lambda inside an expression
            whole = ast.parse("".join(inspect.findsource(code)[0]))
            own = [
                node
                for node in ast.walk(whole)
                if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno
            ]
            return ast.Module([ast.Expr(node) for node in own], [])
    except (OSError, SyntaxError, TypeError):
        return ast.Module([], [])
    return ast.increment_lineno(tree, max(first, 1) - 1)
