"""Follows the numbers that code computes from sizes through the source of a function.

A :class:`Flow` knows the lines that read a size while the forward ran, and gives the kind of every
expression of the function. It reads the source in no order: a name has the kinds of all its values.
Sizes and the numbers that report their comparisons are *watched* (:mod:`.comparisons`);
``int(size)``, ``len(tensor)`` and the like give *plain* numbers. *Pieces* are lists, tuples and
dictionaries that hold as many items as a size says, such as ``x.split(8)``.
"""

from __future__ import annotations

import ast
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from .kinds import (
    FILLS,
    HIDDEN,
    HOLD_PIECES,
    MODULES,
    PLAIN,
    SILENT,
    SIZES,
    SPLITS,
    WATCHED,
    Kind,
    adds_numbers,
    body_of,
    is_shape,
    is_text,
    lines_of,
    returned_by,
    union,
)
from .readers import Reader, Use, source_of

if TYPE_CHECKING:
    from .functions import Flows

Names = dict[str, Kind]
_Functions = (ast.FunctionDef, ast.Lambda)


def _is_stored(node: ast.Name | ast.Subscript) -> bool:
    return isinstance(node.ctx, ast.Store)


class Flow:
    """The source of one function, and what is known of each of its names."""

    def __init__(self, flows: Flows, reader: Reader, given: Names, deep: int) -> None:
        self.reader, self._flows, self._deep = reader, flows, deep
        self._inner = [reader, *flows.inside(reader.code)]
        self._tree = source_of(reader.code)
        self.nodes = list(ast.walk(self._tree))
        self._names = dict(given)
        loops = [item for item in self.nodes if isinstance(item, (ast.For, ast.While))]
        self._loops = {inner: loop for loop in loops for inner in body_of(loop)}
        stored = {one.id for one in self.nodes if isinstance(one, ast.Name) and _is_stored(one)}
        own = {one.arg for one in self.nodes if isinstance(one, ast.arg)}
        outer = [one.names for one in self.nodes if isinstance(one, (ast.Global, ast.Nonlocal))]
        self._local = (stored | own).difference(*outer)
        self._functions = [item for item in self.nodes if isinstance(item, _Functions)]
        first = next(iter(self._functions), None)
        self._results = returned_by(first if isinstance(first, ast.Lambda) else self._tree)
        assigned = [item for item in self.nodes if isinstance(item, ast.Assign)]
        inner = [item for item in self._functions[1:] if isinstance(item, ast.FunctionDef)]
        self.named: dict[str, ast.AST] = {
            ast.unparse(one.targets[0]): one.value for one in assigned
        }
        self.named.update({item.name: item for item in inner})

    def follow(self) -> None:
        """Find the kinds of all names."""
        before = None
        while before != self._names:
            before = dict(self._names)
            for node in self.nodes:
                self._bind(node)
                if isinstance(node, ast.Call):
                    self.kind(node)  # the function may test what it gets

    def ran(self, use: Use, node: ast.expr) -> bool:
        """Whether ``node`` read a size, or split an axis whose length differed."""
        lines = lines_of(node)
        return any(not one.lines[use].isdisjoint(lines) for one in self._inner)

    @property
    def returned(self) -> Kind:
        """The kind of what the function returns or yields."""
        return union(map(self.kind, self._results))

    @cached_property
    def filled(self) -> set[str]:
        """The dictionaries and lists that the function itself fills, such as caches."""
        items = [item for item in self.nodes if isinstance(item, ast.Subscript)]
        return {ast.unparse(item.value) for item in items if _is_stored(item)}

    # Names.

    def _bind(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._assign(target, node.value)
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign, ast.NamedExpr)) and node.value:
            self._assign(node.target, node.value)
            number = isinstance(node.value, ast.Constant) or self.kind(node.value)
            if isinstance(node, ast.AugAssign) and number and self._in_hidden_loop(node):
                self._set(node.target, Kind.PLAIN)
        elif isinstance(node, (ast.For, ast.comprehension)):
            self._bind_items(node.target, node.iter)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in FILLS:
                given = union(map(self.kind, (*node.args, *(one.value for one in node.keywords))))
                kind = Kind.PLAIN if given & HIDDEN else Kind.OTHER
                turns = Kind.PIECES if self._in_hidden_loop(node) else Kind.OTHER
                self._set(node.func.value, kind | turns)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
            owner, name, value = node.args
            if isinstance(name, ast.Constant):
                self._set(ast.Attribute(owner, str(name.value)), self.kind(value))

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        kind = self.kind(value)
        if isinstance(target, (ast.Tuple, ast.List)):
            pieces = kind & Kind.PIECES or self.ran("split", value)
            for item in target.elts:
                rest = Kind.PIECES | Kind.LESS if pieces and isinstance(item, ast.Starred) else 0
                self._set(item, kind & ~Kind.PIECES | rest)
        else:
            self._set(target, kind)

    def _bind_items(self, target: ast.expr, items: ast.expr) -> None:
        """Bind the target of a loop to the items of what it runs over."""
        if isinstance(items, ast.Call) and isinstance(target, ast.Tuple):
            name = ast.unparse(items.func)
            if name == "enumerate" and len(target.elts) == 2 and self.items(items):
                self._set(target.elts[0], Kind.PLAIN)
                return self._bind_items(target.elts[1], items.args[0])
            if name == "zip" and len(target.elts) == len(items.args):
                for each, item in zip(target.elts, items.args, strict=True):
                    self._bind_items(each, item)
                return None
        kind = self.kind(items) & ~(Kind.PIECES | Kind.LESS)
        for one in ast.walk(target):
            self._set(one, kind)
        return None

    def _set(self, target: ast.AST, kind: Kind) -> None:
        node = target.value if isinstance(target, ast.Starred) else target
        if isinstance(node, ast.Subscript):
            in_dict = ast.unparse(node.value).endswith("__dict__")
            if in_dict and isinstance(node.slice, ast.Constant):
                node = ast.Attribute(node.value, str(node.slice.value))
            else:
                node, kind = node.value, kind | (Kind.PIECES if kind & HIDDEN else Kind.OTHER)
        if not kind or not isinstance(node, (ast.Name, ast.Attribute)):
            return
        key = ast.unparse(node)
        self._names[key] = kind | self._names.get(key, Kind.OTHER)
        if not (isinstance(node, ast.Name) and node.id in self._local):
            outer = node.id if isinstance(node, ast.Name) else node.attr
            self._flows.kept[outer] = kind | self._flows.kept.get(outer, Kind.OTHER)

    def _in_hidden_loop(self, node: ast.AST) -> bool:
        """Whether ``node`` runs in a loop whose number of turns is computed from sizes."""
        loop = self._loops.get(node)
        if isinstance(loop, ast.While):
            return bool(self.kind(loop.test))
        return loop is not None and bool(self.items(loop.iter) & HIDDEN)

    # Expressions.

    def items(self, node: ast.expr) -> Kind:
        """The kind of what a loop runs over; a tensor is a list of its rows."""
        return self.kind(node) | (Kind.PIECES if self.ran("split", node) else Kind.OTHER)

    def kind(self, node: ast.AST) -> Kind:
        """What is known of an expression."""
        if isinstance(node, ast.Name):
            outer = {} if node.id in self._local else self._flows.kept
            return self._names.get(node.id) or outer.get(node.id, Kind.OTHER)
        if isinstance(node, ast.Attribute):
            return self._names.get(ast.unparse(node), Kind.OTHER) or self._attribute(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, (ast.Lambda, ast.Constant)):
            return Kind.OTHER
        if isinstance(node, ast.Subscript):
            kind = self.kind(node.value)
            if not kind & Kind.PIECES:
                return kind
            return kind | Kind.LESS if isinstance(node.slice, ast.Slice) else kind & ~Kind.PIECES
        if isinstance(node, (ast.Starred, ast.NamedExpr)):
            return self.kind(node.value)
        if isinstance(node, ast.FormattedValue):
            return Kind.PLAIN if self.kind(node.value) else Kind.OTHER
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            truth = ast.unparse(node.comparators[0]) in ("True", "False")
            return self.kind(node.left) if truth else Kind.OTHER
        if isinstance(node, ast.comprehension):
            return self.items(node.iter) | (Kind.LESS if node.ifs else Kind.OTHER)
        kind = union(self.kind(child) for child in ast.iter_child_nodes(node))
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            return kind | (Kind.PIECES if kind & HIDDEN else Kind.OTHER)
        if isinstance(node, ast.BinOp) and kind:
            if is_text(node.left):
                return Kind.PLAIN
            if {ast.List, ast.Tuple} & {type(node.left), type(node.right)}:
                return kind | Kind.PIECES | Kind.LESS
            if isinstance(node.op, ast.Add) and ast.Constant in (type(node.left), type(node.right)):
                return kind & ~Kind.LESS
            less = isinstance(node.op, (ast.Sub, ast.FloorDiv, ast.Div, ast.Mod, ast.RShift))
            return kind | (Kind.LESS if less else Kind.OTHER)
        return kind

    def _size(self, name: str, node: ast.expr) -> Kind:
        """The kind of the attribute or method ``name`` of a tensor, if it gave a size."""
        if not self.ran("read", node):
            return Kind.OTHER
        return SIZES.get(name, Kind.OTHER)

    def _attribute(self, node: ast.Attribute) -> Kind:
        if kind := self._size(node.attr, node):
            return kind
        if self.kind(node.value) & HIDDEN and (
            node.attr == "size" or not hasattr(Tensor, node.attr)
        ):
            return Kind.PLAIN  # of an array, or of an object that holds such a number
        own = self.reader.is_own(node)
        kept = self._flows.kept.get(node.attr) if own or not hasattr(Tensor, node.attr) else None
        return kept or (self._result(node, [], []) if own else Kind.OTHER)

    def _call(self, node: ast.Call) -> Kind:
        called = node.func
        name = called.id if isinstance(called, ast.Name) else ""
        if isinstance(called, ast.Attribute):
            name, owner = called.attr, called.value
            if is_text(owner):
                return Kind.PLAIN if union(map(self.kind, node.args)) else Kind.OTHER
            sized = self.ran("split", node) or any(map(self.kind, node.args))
            if name in SPLITS and sized:
                return Kind.PIECES
            of = self.kind(owner)
            if of & Kind.PIECES:
                return of if name in HOLD_PIECES else of & ~Kind.PIECES
            if of:  # a method of a number, a shape, or a tensor of sizes
                return Kind.PLAIN
            if kind := self._size(name, node):
                return kind
            if name == "indices" and any(map(self.kind, node.args)):  # of a slice
                return Kind.PLAIN
            if not (isinstance(owner, ast.Name) and owner.id in MODULES):
                return self._result(called, node.args, node.keywords)
            name = name if owner.id in ("math", "torch") else "int"  # numpy gives its own numbers
            name = "int" if owner.id == "math" and name not in WATCHED else name
        if name == "len" and node.args:
            if is_shape(self.named.get(ast.unparse(node.args[0]), node.args[0])):
                return Kind.OTHER  # the number of axes
            if self.ran("read", node):
                return Kind.PLAIN
        given = union(self.kind(item) for item in (*node.args, *(k.value for k in node.keywords)))
        if name in HOLD_PIECES and (given & Kind.PIECES or (node.args and self.ran("split", node))):
            return given | Kind.PIECES
        if given & Kind.PIECES and name == "sum" and not adds_numbers(node.args[0], self.kind):
            given &= ~Kind.PIECES  # a sum of tensors
        if not given or name not in WATCHED | PLAIN:
            return self._result(called, node.args, node.keywords)
        plain = Kind.PLAIN if name in PLAIN or given & Kind.PIECES else Kind.OTHER
        return given & ~Kind.PIECES | plain

    def _result(
        self, called: ast.expr, arguments: list[ast.expr], keywords: list[ast.keyword]
    ) -> Kind:
        """The kind of the result of a function whose source is at hand."""
        given = [self.kind(argument) for argument in arguments]
        local = self.named.get(ast.unparse(called))
        if isinstance(local, _Functions):
            for parameter, kind in zip(local.args.args, given, strict=False):
                self._set(ast.Name(parameter.arg), kind)
            return union(map(self.kind, returned_by(local)))
        found = self.reader.function(called)
        if found is None:
            if self.reader.is_torchs(called) or ast.unparse(called) in SILENT:
                return Kind.OTHER
            hidden = union([*given, *(self.kind(one.value) for one in keywords)]) & HIDDEN
            return hidden | Kind.LESS if hidden & Kind.PIECES else hidden
        if found[0].code is self.reader.code:
            return Kind.OTHER
        reader, bound = found
        names = reader.code.co_varnames[bound : reader.code.co_argcount]
        named = {item.arg: self.kind(item.value) for item in keywords if item.arg}
        named |= dict(zip(names, given, strict=False))
        if more := union(given[len(names) :]):
            rest = reader.code.co_argcount + reader.code.co_kwonlyargcount
            named |= dict.fromkeys(reader.code.co_varnames[rest : rest + 1], more | Kind.PIECES)
        flow = self._flows.flow(reader, named, self._deep - 1)
        return Kind.OTHER if flow is None else flow.returned
