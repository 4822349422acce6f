"""The record of a forward pass: its operators, the tensors between them, and its module calls.

The graph is a record of a run, not a program: only single operators can run again. ``trace`` builds
the graph, and planning bypasses each operator that has been folded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch


@dataclass(eq=False)
class Value:
    """One version of one tensor. An in-place operator ends a version and begins the next.

    Attributes:
        name: the qualified name of a parameter or buffer; None for other tensors.
        constant: the tensor does not depend on the model's inputs.
        output: the model returns the tensor.
        number: the stored numbers; None if the model stores none or the forward writes to them.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    producer: Op | None = None
    name: str | None = None
    constant: bool = False
    output: bool = False
    number: torch.Tensor | None = None
    consumers: list[Op] = field(default_factory=list)

    def drop_reader(self, op: Op) -> None:
        """Note that ``op`` no longer reads the tensor."""
        self.consumers = [consumer for consumer in self.consumers if consumer is not op]

    def __repr__(self) -> str:
        source = self.name or (self.producer.name if self.producer else "input")
        return f"Value({source}, {list(self.shape)})"


@dataclass(eq=False)
class Call:
    """One call of one module: the module's path, and the tensors that it took and returned.

    ``transformed`` calls run inside ``torch.vmap`` or another transform of ``torch.func``.
    """

    path: str
    module: torch.nn.Module
    parent: Call | None
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()
    transformed: bool = False

    def within(self, other: Call) -> bool:
        """Whether this call is ``other``, or ``other`` made it directly or indirectly."""
        return any(call is other for call in self.and_around())

    def and_around(self) -> Iterator[Call]:
        """Yield this call and every call around it, from the inside out."""
        call: Call | None = self
        while call is not None:
            yield call
            call = call.parent


@dataclass(eq=False)
class Op:
    """One ATen operator that ran.

    Attributes:
        name: the operator without overload, such as ``conv2d`` or ``add_``.
        arguments: the arguments by schema name, defaults filled in, a :class:`Value` per tensor.
        call: the innermost module call around the operator.
        occurrence: the number of earlier operators of the same name in the same call.
    """

    name: str
    function: Any
    arguments: dict[str, Any]
    call: Call
    occurrence: int = 0
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Op({self.name} in {self.call.path or 'model'})"

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    @property
    def variable(self) -> list[Value]:
        """The inputs that depend on the model's inputs."""
        return [value for value in self.inputs if not value.constant]

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    @property
    def repeatable(self) -> bool:
        """Whether equal inputs give equal results, and the operator changes none of its inputs."""
        if self.function is None:  # an alias found by its storage
            return False
        random = torch.Tag.nondeterministic_seeded in self.function.tags
        return not random and not self.function._schema.is_mutable

    def repeats(self, other: Op) -> bool:
        """Whether this operator and ``other``, a layer or norm, differ at most in their inputs.

        An operator that reads the weight of ``other`` as its input does not count.
        """
        if self is other:
            return True
        same = self.name == other.name and all(
            self.arguments.get(key) == item or item is other["input"]
            for key, item in other.arguments.items()
        )
        return same and self["input"] is not other["weight"]

    def rerun(self, tensors: dict[Value, torch.Tensor]) -> Any:
        """Run the operator again with its recorded settings and new ``tensors``, on the CPU.

        Raises:
            KeyError: the operator reads a value that ``tensors`` lacks.
        """

        def resolve(item: Any) -> Any:
            if isinstance(item, Value):
                return tensors[item]
            if isinstance(item, (list, tuple)):
                return [resolve(element) for element in item]
            if isinstance(item, torch.device):  # the trace may have used the meta device
                return torch.device("cpu")
            return item

        positional, keywords = [], {}
        for argument in self.function._schema.arguments:
            if argument.name not in self.arguments:
                continue
            if argument.kwarg_only:
                keywords[argument.name] = resolve(self.arguments[argument.name])
            else:
                positional.append(resolve(self.arguments[argument.name]))
        with torch.no_grad():
            return self.function(*positional, **keywords)

    def replace_input(self, old: Value, new: Value) -> None:
        """Read ``new`` wherever this operator read ``old``."""
        self.inputs = [new if value is old else value for value in self.inputs]
        self.arguments = {
            key: substitute(argument, old, new) for key, argument in self.arguments.items()
        }


@dataclass(eq=False)
class Graph:
    """The operators and module calls of one or several forward passes, in the order they ran.

    Attributes:
        operators: the position of each operator; the mapping removes an operator in constant time.
    """

    operators: dict[Op, int]
    calls: list[Call]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    constants: dict[str, Value]
    mutated: frozenset[str]
    """The names of the parameters and buffers that the forward pass wrote to."""
    random: bool = False
    """Whether the forward draws random numbers."""
    taken: tuple[tuple[Any, ...], ...] = ()
    """The additional inputs that the model accepts."""
    differing: tuple[tuple[Any, ...], ...] = ()
    """The inputs of ``taken`` that lead to other operators. The graph contains their passes."""
    one_sided: tuple[str, ...] = ()
    """The places in the code that compare sizes, with the same answer in every pass."""
    unfollowed: tuple[str, ...] = ()
    """The places that branch on a number computed from sizes, such as ``len(x)``."""

    def __contains__(self, op: Op) -> bool:
        return op in self.operators

    @property
    def ops(self) -> list[Op]:
        """The remaining operators, in the order they ran."""
        return sorted(self.operators, key=self.operators.__getitem__)

    def insert(self, op: Op, position: int) -> None:
        """Add ``op`` as a reader of its inputs; equal positions keep the order of entry."""
        for value in op.inputs:
            value.consumers.append(op)
        self.operators[op] = position

    def remove(self, op: Op) -> int:
        """Remove an operator, which then reads nothing; return its position."""
        for value in op.inputs:
            value.drop_reader(op)
        return self.operators.pop(op)

    def replace(self, chain: list[Op], merged: Op) -> None:
        """Replace a chain of operators, in the order they ran, by ``merged``."""
        position = self.operators[chain[-1]]
        for op in chain:
            self.remove(op)
        self.operators[merged] = position

    def bypass(self, op: Op) -> None:
        """Remove ``op`` as if it were an identity: its consumers read its first input instead."""
        source, result = op.inputs[0], op.output
        for consumer in result.consumers:
            consumer.replace_input(result, source)
            source.consumers.append(consumer)
        source.output = source.output or result.output
        if result.output:
            self.outputs = tuple(source if value is result else value for value in self.outputs)
        calls = self._calls_around
        for call in calls.pop(result, {}):
            call.inputs = tuple(source if value is result else value for value in call.inputs)
            call.outputs = tuple(source if value is result else value for value in call.outputs)
            calls.setdefault(source, {})[call] = None
        result.consumers = []
        result.producer = None
        self.remove(op)

    @cached_property
    def _calls_around(self) -> dict[Value, dict[Call, None]]:
        """The calls that take or return each value."""
        found: dict[Value, dict[Call, None]] = {}
        for call in self.calls:
            for value in (*call.inputs, *call.outputs):
                found.setdefault(value, {})[call] = None
        return found

    @cached_property
    def _calls_by_module(self) -> dict[int, list[Call]]:
        found: dict[int, list[Call]] = {}
        for call in self.calls:
            found.setdefault(id(call.module), []).append(call)
        return found

    def calls_of(self, module: torch.nn.Module) -> list[Call]:
        """Every call of ``module``, in order."""
        return self._calls_by_module.get(id(module), [])


def affine_op(source: Value, result: Value, axis: int | None, call: Call) -> Op:
    """An operator that stands for a channel-wise affine map from ``source`` to ``result``."""
    op = Op("channel_affine", None, {"self": source, "axis": axis}, call)
    op.inputs, op.outputs = [source], [result]
    source.consumers.append(op)
    result.producer = op
    return op


def has_hooks(module: torch.nn.Module) -> bool:
    """Whether a module has forward hooks, which see its tensors."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def forward_of(module: torch.nn.Module) -> Any:
    """The function that a call of ``module`` runs: its class's, or one set on the module itself.

    TorchScript modules have none in Python.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return None
    return vars(module).get("forward", type(module).forward)


def values_in(argument: Any) -> Iterator[Value]:
    """Every :class:`Value` in a nested argument."""
    if isinstance(argument, Value):
        yield argument
    elif isinstance(argument, (list, tuple)):
        for item in argument:
            yield from values_in(item)


def substitute(argument: Any, old: Value, new: Value) -> Any:
    """Replace ``old`` by ``new`` in a nested argument."""
    if argument is old:
        return new
    if isinstance(argument, (list, tuple)):
        return type(argument)(substitute(item, old, new) for item in argument)
    return argument
