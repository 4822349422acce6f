"""The kinds of numbers that code computes from sizes, and the functions that give them."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterable
from enum import IntFlag


class Kind(IntFlag):
    """What is known of an expression whose value is a size, or computed from sizes."""

    OTHER = 0
    WATCHED = 1
    PLAIN = 2
    PIECES = 4
    LESS = 8
    """It may be zero or empty, as differences, quotients and slices may be."""


HIDDEN = Kind.PLAIN | Kind.PIECES
SIZES = {  # attributes and methods of a tensor
    **dict.fromkeys(("shape", "size", "numel", "nelement"), Kind.WATCHED),
    **dict.fromkeys(
        """stride nbytes is_contiguous is_same_size storage untyped_storage storage_offset
        _shape_as_tensor""".split(),
        Kind.PLAIN,
    ),
}
WATCHED = frozenset(
    "abs ceil divmod floor list max min prod reversed round sorted sum trunc tuple".split()
)
SILENT = frozenset("isinstance hasattr callable type print slice super".split())
"""Functions whose results tell nothing of the sizes that they get."""
_KEEPING = frozenset("all any dict getattr iter next pow setattr".split())
PLAIN = {"arange", "as_tensor", "tensor", *vars(builtins)} - WATCHED - SILENT - _KEEPING
FILLS = frozenset("append appendleft extend add insert update setdefault __setitem__".split())
"""Methods that put what they get into their list, set or dictionary."""
HOLD_PIECES = frozenset(
    "list tuple set reversed sorted enumerate zip iter dict deque items keys values".split()
)
SPLITS = frozenset(
    """split chunk unbind tensor_split hsplit vsplit dsplit unsafe_split unsafe_chunk
    split_with_sizes""".split()
)
MODULES = frozenset({"math", "np", "numpy", "torch"})


def union(kinds: Iterable[Kind]) -> Kind:
    """The kinds together."""
    found = Kind.OTHER
    for kind in kinds:
        found |= kind
    return found


def lines_of(node: ast.expr) -> range:
    """The lines of an expression."""
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def returned_by(function: ast.AST) -> list[ast.expr]:
    """The expressions that a function returns or yields."""
    if isinstance(function, ast.Lambda):
        return [function.body]
    gives = (ast.Return, ast.Yield, ast.YieldFrom)
    return [item.value for item in ast.walk(function) if isinstance(item, gives) and item.value]


def body_of(loop: ast.For | ast.While) -> list[ast.AST]:
    """Every node in the body of a loop."""
    return [inner for statement in loop.body for inner in ast.walk(statement)]


def adds_numbers(node: ast.expr, kind: Callable[[ast.expr], Kind]) -> bool:
    """Whether ``node`` gives numbers, and no tensors, to ``sum``."""
    if not isinstance(node, (ast.GeneratorExp, ast.ListComp)):
        return isinstance(node, ast.Call) and ast.unparse(node.func) == "map"
    return isinstance(node.elt, ast.Constant) or bool(kind(node.elt))


def is_text(node: ast.AST) -> bool:
    """Whether ``node`` is a string."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def is_shape(node: ast.AST) -> bool:
    """Whether ``node`` is the shape of a tensor, or a slice of it."""
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Slice) and is_shape(node.value)
    if isinstance(node, ast.Call):
        return not node.args and isinstance(node.func, ast.Attribute) and node.func.attr == "size"
    return isinstance(node, ast.Attribute) and node.attr == "shape"
