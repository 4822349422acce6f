"""Inert stand-ins for objects of a pickle that are not allowed to be loaded.

Besides weights, a checkpoint often has objects of classes that torch's restricted unpickler
refuses: numpy scalars, paths, configurations. This module makes a stand-in for each such class or
function. The class itself is never imported, and its code never runs. A stand-in keeps the
arguments, items and state from the pickle, so that weights inside it can be found. Every use of it
raises.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import IO, Any, NoReturn

from deployfold.errors import LoadError

_MARK = "_deployfold_not_loaded"
"""The attribute of an ``OrderedDict`` that stands in for a mapping: the name of its class."""


class _Kind(type):
    """The metaclass of stand-in classes. After :func:`close`, calling such a class raises."""

    name: str
    closed = False

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        if cls.closed:
            _refuse(cls.name)
        return super().__call__(*arguments, **options)


class Placeholder(list, metaclass=_Kind):  # type: ignore[type-arg]
    """The stand-in for one object: keeps its arguments, items and state; every use raises.

    The class derives from ``list``, because torch's restricted unpickler appends only to lists.

    Attributes:
        name: the qualified name of the class or function in the pickle.
        arguments: the arguments of the call that would have made the object.
        state: the state that would have set the object's attributes; ``None`` without one.
    """

    name: str = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> Placeholder:
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        if not cls.name and arguments:  # __reduce_ex__ wrote the name as the argument
            made.name = str(arguments[0])
        return made

    def __init__(self, *arguments: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def items_given(self) -> Iterator[Any]:
        """The items that the pickle appends to the object."""
        return super().__iter__()

    def attributes(self) -> dict[Any, Any]:
        """The attributes that the pickle sets; ``{}`` if its state is not a dictionary.

        Those of a GraphModule are the first argument of the function that rebuilds it.
        """
        state = self.state
        first = self.arguments[0] if self.arguments else None
        if isinstance(first, dict) and "_modules" in first:
            return first
        if isinstance(state, tuple) and len(state) == 2:  # __dict__ and slots
            return {k: v for part in state if isinstance(part, dict) for k, v in part.items()}
        return state if isinstance(state, dict) else {}

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Placeholder, (self.name,)

    def __deepcopy__(self, memo: Any) -> Placeholder:
        return self

    def __repr__(self) -> str:
        return f"<{self.name}, not loaded>"

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        _refuse(self.name)

    def __call__(self, *arguments: Any, **options: Any) -> NoReturn:
        _refuse(self.name)

    __bool__ = __len__ = __iter__ = __contains__ = __getitem__ = __call__


def stand_ins(names: Sequence[str], mappings: set[str]) -> list[tuple[type, str]]:
    """A stand-in class for each global, in the form that ``safe_globals`` of torch takes.

    Args:
        names: qualified names of globals in a pickle.
        mappings: the names whose objects are mappings, see :func:`mappings_in`.
    """
    return [(_mapping(name) if name in mappings else _class(name), name) for name in names]


def close(made: list[tuple[type, str]]) -> None:
    """Make every further call of these stand-in classes raise."""
    for kind, _ in made:
        if isinstance(kind, _Kind):
            kind.closed = True


def name_of(value: object) -> str | None:
    """The name of the global that ``value`` stands in for; ``None`` for a loaded object."""
    if isinstance(value, Placeholder):
        return value.name
    if isinstance(value, _Kind):
        return value.name
    if type(value) is OrderedDict and vars(value):
        name = vars(value).get(_MARK)
        return name if isinstance(name, str) else None
    return None


def _class(name: str) -> type:
    return _Kind("Placeholder", (Placeholder,), {"name": name})


def _mapping(name: str) -> type:
    """A class that makes ``OrderedDict`` objects: torch sets items of no other class."""

    def make(cls: type, *arguments: Any) -> OrderedDict[Any, Any]:
        made: OrderedDict[Any, Any] = OrderedDict()
        vars(made)[_MARK] = name
        return made

    return _Kind("Mapping", (), {"__new__": make, "name": name})


def _refuse(name: str) -> NoReturn:
    raise LoadError(
        f"The model uses {name}, which the checkpoint was not allowed to load.",
        hint=f"If you trust its author, add --allow-global {name}, or --trust.",
    )


def mappings_in(pickle: IO[bytes]) -> set[str]:
    """The globals of one pickle whose objects are mappings, that is, get items by key.

    The function interprets the opcodes on a stack that has, in place of each object, the name of
    the global that makes it. Nothing of the pickle runs.
    """
    found: set[str] = set()
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    mark = object()

    def pop_to_mark() -> None:
        while stack.pop() is not mark:
            pass

    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            code = opcode.name
            if code == "GLOBAL":
                name = str(argument).replace(" ", ".", 1)
                stack.append(name.replace("__builtin__.", "builtins."))
            elif code in ("REDUCE", "NEWOBJ"):
                stack.pop()  # the arguments; the global stays
            elif code in ("SETITEM", "SETITEMS"):
                pop_to_mark() if code == "SETITEMS" else stack.__delitem__(slice(-2, None))
                if isinstance(stack[-1], str):
                    found.add(stack[-1])
            elif code in ("APPENDS", "ADDITEMS"):
                pop_to_mark()
            elif code in ("APPEND", "BUILD"):
                stack.pop()
            elif code in ("BINPUT", "LONG_BINPUT", "PUT"):
                memo[argument] = stack[-1]
            elif code in ("BINGET", "LONG_BINGET", "GET"):
                stack.append(memo.get(argument))
            elif code == "MARK":
                stack.append(mark)
            elif code == "STOP":
                stack.clear()
            else:
                before = [item.name for item in opcode.stack_before]
                if "mark" in before:
                    pop_to_mark()
                elif before:
                    del stack[-len(before) :]
                stack.extend(None for _ in opcode.stack_after)
    except (ValueError, IndexError, OverflowError, MemoryError, KeyError):
        pass  # the unpickler reads the same bytes next, and reports what is wrong with them
    return found
