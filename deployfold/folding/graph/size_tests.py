"""Branches on numbers that a forward's code computes from sizes, found in the code's source.

:class:`.sizes.Size` numbers report how they are compared, but ``int(size)``, ``len(tensor)``,
``range(size)``, ``math.log2(size)`` and the like give plain numbers. This module follows such
numbers through the source of every function that read a size, and into the functions that get them
as arguments. Sizes and the numbers that report their comparisons are *watched*; the others are
*plain*.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any


class Kind(IntEnum):
    """What is known of an expression: whether its value is a size, or computed from sizes."""

    OTHER = 0
    WATCHED = 1
    PLAIN = 2


_SIZES = frozenset({"size", "numel", "nelement"})  # as methods of a tensor
_PLAIN_SIZES = frozenset({"stride", "nbytes"})
_WATCHED = frozenset(
    "abs ceil divmod floor list max min prod reversed round sorted sum trunc tuple".split()
)
_PLAIN = frozenset(
    "arange as_tensor bool enumerate float format int len range repr set str tensor zip".split()
)
_MODULES = frozenset({"math", "np", "numpy", "torch"})
_CALLS = 3
"""How many calls of functions deep a plain number is followed."""

_Names = dict[str, Kind]


class Reader:
    """A function that read sizes, or looked them up: its code, and the lines where it did."""

    def __init__(self, frame: FrameType) -> None:
        self.code = frame.f_code
        self.lines: set[int] = set()
        self.lookups: set[int] = set()
        self._globals = frame.f_globals
        self._self = (*self.code.co_varnames, "")[0]
        self._owner = type(frame.f_locals.get(self._self))

    def function(self, call: ast.Call) -> tuple[CodeType, bool] | None:
        """The code that ``call`` runs, and whether it is a method; None if that is not known."""
        called, method = call.func, False
        found: Any = None
        if isinstance(called, ast.Name):
            found = self._globals.get(called.id)
        elif isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            method = called.value.id == self._self
            found = getattr(self._owner, called.attr, None) if method else None
        if isinstance(found, MethodType):
            found = found.__func__
        return (found.__code__, method) if isinstance(found, FunctionType) else None


def tests_of(reader: Reader) -> list[tuple[str, bool]]:
    """The places, as file and line, where the code depends on the value of a plain number.

    The code branches there (True), or takes the least or largest of several numbers (False).
    """
    return list(_Function(reader, reader.code, {}, _CALLS).tests())


class _Function:
    """The source of one function, and what is known of each of its names."""

    def __init__(
        self, reader: Reader, code: CodeType, given: Mapping[str, Kind], deep: int
    ) -> None:
        self._reader, self._code, self._deep = reader, code, deep
        self._tree = _source_of(code)
        self._names: _Names = dict(given)
        self._own = code is reader.code
        self._checks = {inner for node in ast.walk(self._tree) for inner in _checks_of(node)}
        before = None
        while before != self._names:
            before = dict(self._names)
            for node in ast.walk(self._tree):
                self._bind(node)

    def tests(self) -> Iterator[tuple[str, bool]]:
        """Yield the places of :func:`tests_of`."""
        file = Path(self._code.co_filename).name
        for node in ast.walk(self._tree):
            if node in self._checks:
                continue
            for test in _tested(node):
                if self._uses(test) is Kind.PLAIN:
                    yield f"{file}:{test.lineno}", True
            line = getattr(node, "lineno", 0)
            if self._own and line in self._reader.lookups and self._looks_up(node):
                yield f"{file}:{line}", True
            if isinstance(node, ast.Call):
                if ast.unparse(node.func) in ("min", "max") and self._kind(node) is Kind.PLAIN:
                    yield f"{file}:{line}", False
                yield from self._inside(node)

    def _looks_up(self, node: ast.AST) -> bool:
        """Whether ``node`` chooses by a key, from what the function itself does not fill."""
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            place = node.value
            if self._kind(place):  # one size of a shape
                return False
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            place = node.func.value
            if node.func.attr != "get":
                return False
        elif isinstance(node, ast.Compare) and isinstance(node.ops[-1], (ast.In, ast.NotIn)):
            place = node.comparators[-1]
        else:
            return False
        return ast.unparse(place) not in {
            ast.unparse(one.value)
            for one in ast.walk(self._tree)
            if isinstance(one, ast.Subscript) and isinstance(one.ctx, ast.Store)
        }

    def _inside(self, call: ast.Call) -> Iterator[tuple[str, bool]]:
        """The tests in a function that gets a plain number as an argument."""
        kinds = [self._kind(argument) for argument in call.args]
        named = {item.arg: self._kind(item.value) for item in call.keywords if item.arg}
        if not self._deep or Kind.PLAIN not in (*kinds, *named.values()):
            return
        found = self._reader.function(call)
        if found is None or found[0] is self._code:
            return
        code, method = found
        names = code.co_varnames[method : code.co_argcount]
        given = {**dict(zip(names, kinds, strict=False)), **named}
        yield from _Function(self._reader, code, given, self._deep - 1).tests()

    def _bind(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign, ast.NamedExpr)) and node.value:
            pairs = [(node.target, node.value)]
        elif isinstance(node, (ast.For, ast.comprehension)):
            pairs = [(node.target, node.iter)]
        else:
            return
        for target, value in pairs:
            kind = self._kind(value)
            for name in ast.walk(target):
                if isinstance(name, (ast.Name, ast.Attribute)) and kind:
                    key = ast.unparse(name)
                    self._names[key] = max(kind, self._names.get(key, Kind.OTHER))

    def _kind(self, node: ast.AST) -> Kind:
        if isinstance(node, (ast.Name, ast.Attribute)):
            known = self._names.get(ast.unparse(node), Kind.OTHER)
            return known or (self._attribute(node) if isinstance(node, ast.Attribute) else known)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, (ast.Lambda, ast.Constant)):
            return Kind.OTHER
        if isinstance(node, (ast.Subscript, ast.Starred, ast.NamedExpr, ast.FormattedValue)):
            kind = self._kind(node.value)
            return Kind.PLAIN if kind and isinstance(node, ast.FormattedValue) else kind
        return self._uses(node)

    def _uses(self, node: ast.AST) -> Kind:
        """The kind of an expression that is computed from all of its parts."""
        if isinstance(node, (ast.Name, ast.Attribute, ast.Call, ast.Subscript)):
            return self._kind(node)
        children = (*ast.iter_child_nodes(node),)
        return max((self._kind(child) for child in children), default=Kind.OTHER)

    def _attribute(self, node: ast.Attribute) -> Kind:
        if node.attr == "shape" and self._reads(node):
            return Kind.WATCHED
        return Kind.PLAIN if node.attr in _PLAIN_SIZES and self._reads(node) else Kind.OTHER

    def _call(self, node: ast.Call) -> Kind:
        called = node.func
        given = max(map(self._kind, (*node.args, *(k.value for k in node.keywords))), default=0)
        name = called.id if isinstance(called, ast.Name) else ""
        if isinstance(called, ast.Attribute):
            name, owner = called.attr, called.value
            if self._kind(owner):  # a method of a number, a shape, or a tensor of sizes
                return Kind.PLAIN
            if name in _SIZES | _PLAIN_SIZES and self._reads(node):
                return Kind.WATCHED if name in _SIZES else Kind.PLAIN
            if not (isinstance(owner, ast.Name) and owner.id in _MODULES):
                return Kind.OTHER
            name = name if owner.id in ("math", "torch") else "int"  # numpy gives its own numbers
            name = "int" if owner.id == "math" and name not in _WATCHED else name
        if name == "len" and node.args and self._reads(node):
            return Kind.PLAIN
        if not given or name not in _WATCHED | _PLAIN:
            return Kind.OTHER
        return Kind(given) if name in _WATCHED else Kind.PLAIN

    def _reads(self, node: ast.expr) -> bool:
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        return self._own and any(line in self._reader.lines for line in lines)


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


def _checks_of(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes inside a check whose failure raises: the model then refuses the input."""
    if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise) and not node.orelse:
        yield node
        yield from ast.walk(node.test)
    elif isinstance(node, ast.Assert) or (
        isinstance(node, ast.Call) and ast.unparse(node.func).endswith("_assert")
    ):
        yield from ast.walk(node)


@lru_cache(maxsize=1024)
def _source_of(code: CodeType) -> ast.AST:
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
