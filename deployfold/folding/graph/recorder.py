"""Records a forward pass: its dispatched operators, its tensors and its module calls."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deployfold.folding.modules import map_tensors, named_tensors, tensors_in
from deployfold.folding.operators.table import OPERATORS
from deployfold.util.seeded import Seeded, bind_schema, is_random

from .devices import Devices
from .direct_calls import DirectCalls
from .dispatched import LIFTS, in_one_form, storage_of, with_layer_names
from .graph import Call, Graph, Op, Value, values_in
from .meta_results import meta_result
from .outline import reads_data

Inputs = tuple[Any, ...]  # the arguments of one forward call


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that builds a :class:`Graph` from the operators of forward passes."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True makes torch import its compiler, which takes over a second

    def __init__(self, model: torch.nn.Module, devices: Devices | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._values: dict[int, tuple[weakref.ref[torch.Tensor], Value]] = {}
        self._aliases: dict[int, list[weakref.ref[torch.Tensor]]] = {}
        self._ops: list[Op] = []
        self._root = Call("", model, None)
        self._calls = [self._root]
        self._stack = [self._root]
        self._draws = Seeded()
        self._random = False
        self._has_read = False  # whether this pass gave data to code outside torch
        self.devices = devices  # None if the passes compute numbers
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._direct_calls = DirectCalls(self._paths, model)
        self._constants: dict[str, Value] = {}
        self._originals: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._mutated: set[str] = set()
        self._inputs: list[Value] = []
        self._outputs: list[Value] = []
        self._occurrences: dict[tuple[Call, str], int] = {}
        places = [place for one in model.modules() for place in (*vars(one).values(), vars(one))]
        self._state = [(one, type(one)(one)) for one in places if type(one) in (dict, list)]
        self._model = model  # keeps the tensors alive while their ids are used
        for name, tensor in named_tensors(model):
            value = self._known(tensor)
            if value is None:
                value = Value(tuple(tensor.shape), tensor.dtype, name=name, constant=True)
                self._bind(tensor, value)
            self._constants[name] = value
        for module in model.modules():
            for attribute in filter(torch.is_tensor, vars(module).values()):
                self._bind_made(attribute, constant=True)

    def begin(self) -> tuple[int, int, int, int]:
        """Begin another pass; return the start that :meth:`since` and :meth:`undo` take."""
        start = (len(self._ops), len(self._calls), len(self._inputs), len(self._outputs))
        for place, content in self._state:  # drop caches of earlier passes
            place.clear()
            place.extend(content) if isinstance(place, list) else place.update(content)
        self._root = Call("", self._model, None)
        self._calls.append(self._root)
        self._stack = [self._root]
        self._has_read = False
        self._draws = Seeded()
        return start

    @property
    def reads_data(self) -> bool:
        """Whether a pass gave numbers that depend on the model's input to code outside torch."""
        return any(map(reads_data, self._ops))

    def since(self, start: tuple[int, int, int, int]) -> tuple[list[Value], list[Op]]:
        """The inputs and operators of the passes after ``start``."""
        return self._inputs[start[2] :], self._ops[start[0] :]

    def undo(self, start: tuple[int, int, int, int]) -> None:
        """Remove every pass after ``start`` from the record."""
        ops, calls, inputs, outputs = start
        gone = set(self._ops[ops:])
        for value in {value for op in gone for value in op.inputs}:
            value.consumers = [op for op in value.consumers if op not in gone]
        del self._ops[ops:], self._calls[calls:], self._inputs[inputs:], self._outputs[outputs:]

    def note_transform(self) -> None:
        """Record that the module call at hand runs inside a transform of ``torch.func``."""
        self._stack[-1].transformed = True

    def note_read(self, name: str, tensor: torch.Tensor) -> None:
        """Record that code outside torch reads ``tensor``."""
        self._record(name, None, {"self": self._value(tensor)}, [])

    @contextmanager
    def watching_modules(self) -> Iterator[None]:
        """Record every module call inside the ``with`` block, by hooks on the modules."""

        def enter(module: torch.nn.Module, arguments: Any) -> None:
            path = self._paths.get(id(module), type(module).__name__)
            call = Call(path, module, self._stack[-1])
            call.inputs = tuple(self._value(t) for t in tensors_in(arguments))
            self._calls.append(call)
            self._stack.append(call)

        def leave(module: torch.nn.Module, arguments: Any, result: Any) -> None:
            call = self._stack.pop()
            call.outputs = tuple(self._value(t) for t in tensors_in(result))

        handles = []  # of this copy's modules: torch's global hooks would also see other threads
        for module in self._model.modules():
            if not isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                handles.append(module.register_forward_pre_hook(enter, prepend=True))
                hook = module.register_forward_hook(leave, prepend=True, always_call=True)
                handles.append(hook)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def adopt_input(self, argument: Any) -> Any:
        """Register a possibly nested input; return a copy that the model may write to."""

        def adopt(tensor: torch.Tensor) -> torch.Tensor:
            own = tensor.detach().clone()
            value = Value(tuple(own.shape), own.dtype)
            self._bind(own, value)
            self._inputs.append(value)
            return own

        return map_tensors(argument, adopt)

    def adopt_outputs(self, outputs: Any) -> None:
        """Mark the tensors that the model returned, because folding must not change them."""
        for tensor in tensors_in(outputs):
            value = self._value(tensor)
            value.output = True
            self._outputs.append(value)

    def graph(self) -> Graph:
        """The graph of every pass recorded so far."""
        return Graph(
            operators={op: position for position, op in enumerate(self._ops)},
            calls=self._calls,
            inputs=tuple(self._inputs),
            outputs=tuple(self._outputs),
            constants=self._constants,
            mutated=frozenset(self._mutated),
            random=self._random,
        )

    def restore_parameters(self) -> None:
        """Restore the numbers of every parameter and buffer that a pass wrote to."""
        with torch.no_grad():
            for parameter, original in self._originals.values():
                parameter.copy_(original)

    def stores(self, tensor: Any) -> bool:
        """Whether ``tensor`` is a parameter or a buffer of the model."""
        return getattr(self._known(tensor), "name", None) is not None

    def _known(self, tensor: torch.Tensor) -> Value | None:
        """The value that ``tensor`` holds at this moment; None if the recorder has none."""
        reference, value = self._values.get(id(tensor), (None, None))
        # Python may reuse the id of a dead tensor.
        return value if reference is not None and reference() is tensor else None

    def _bind(self, tensor: torch.Tensor, value: Value) -> None:
        reference = weakref.ref(tensor)
        if self._known(tensor) is None:
            self._aliases.setdefault(storage_of(tensor), []).append(reference)
        self._values[id(tensor)] = (reference, value)

    def _living_aliases(self, tensor: torch.Tensor) -> list[tuple[torch.Tensor, Value]]:
        """Every living tensor on the same storage, with the value that the tensor holds."""
        key = storage_of(tensor)
        living = []
        for reference in self._aliases.get(key, []):
            alias = reference()
            value = None if alias is None else self._known(alias)
            if alias is not None and value is not None and storage_of(alias) == key:
                living.append((alias, value))
        self._aliases[key] = [weakref.ref(alias) for alias, _ in living]
        return living

    def _value(self, tensor: torch.Tensor) -> Value:
        value = self._known(tensor)
        if value is not None:
            return value
        # The dispatcher did not see the tensor: ``tensor.data`` shares a known tensor's storage.
        known = [value for _, value in self._living_aliases(tensor)]
        if known:
            value = self._record("alias", None, {"self": known[-1]}, [tensor])[0]
        else:
            # Code outside torch, such as numpy, may have made the tensor from an input.
            value = Value(tuple(tensor.shape), tensor.dtype)
            self._bind(tensor, value)
        return value

    def _record(
        self, name: str, function: Any, arguments: dict[str, Any], results: list[torch.Tensor]
    ) -> list[Value]:
        call = self._stack[-1]
        if (record := OPERATORS.get(name)) and (record.layer or record.batch_norm):
            call = self._direct_calls.innermost(sys._getframe(1), call)
        key = (call, name)
        op = Op(name, function, arguments, call, self._occurrences.get(key, 0))
        self._occurrences[key] = op.occurrence + 1
        op.inputs = [value for item in arguments.values() for value in values_in(item)]
        op.arguments = with_layer_names(name, arguments)
        constant = all(value.constant for value in op.inputs)
        self._has_read = self._has_read or reads_data(op)
        for value in op.inputs:
            value.consumers.append(op)
        for tensor in results:
            value = Value(tuple(tensor.shape), tensor.dtype, producer=op, constant=constant)
            op.outputs.append(value)
            self._bind(tensor, value)
        self._ops.append(op)
        return op.outputs

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        arguments = bind_schema(func, args, kwargs)
        if func in LIFTS:
            made = func(*args, **kwargs)
            # Constant unless the pass has read data before: the numbers may come from it.
            self._bind_made(made, constant=not self._has_read)
            return made
        written = [
            tensor
            for argument in (func._schema.arguments if func._schema.is_mutable else ())
            if argument.alias_info is not None and argument.alias_info.is_write
            for tensor in tensors_in(arguments.get(argument.name))
        ]
        values = {key: self._to_values(item) for key, item in arguments.items()}
        for tensor in written:
            self._remember_constant(tensor)
        draws = is_random(func, arguments)
        self._random = self._random or draws
        result = None if self.devices is None else meta_result(func, arguments)
        if result is None:
            drawn = draws and self.devices is None
            result = self._draws.draw(func, args, kwargs) if drawn else func(*args, **kwargs)
        given = {id(tensor) for tensor in tensors_in(list(arguments.values()))}
        fresh = [tensor for tensor in tensors_in(result) if id(tensor) not in given]
        if written or fresh or not list(tensors_in(result)):
            # Otherwise the operator returned its input, as eval-mode dropout and .contiguous() may.
            operator = in_one_form(str(func.overloadpacket.__name__), func, values)
            self._record(*operator, [*written, *fresh])
        for tensor in written:
            self._spread_write(tensor)
        return result

    def _bind_made(self, tensor: torch.Tensor, *, constant: bool) -> None:
        """Give a tensor that no recorded operator made a value of its own."""
        if self._known(tensor) is None:
            self._bind(tensor, Value(tuple(tensor.shape), tensor.dtype, constant=constant))

    def bind_index(self, numbers: list[Any]) -> torch.Tensor:
        """Make a tensor of an index that is a list, which torch would make unseen."""
        index = torch.tensor(numbers, device="cpu")
        value = Value(tuple(index.shape), index.dtype, constant=not self._has_read)
        value.number = index if value.constant else None
        self._bind(index, value)
        return index

    def _to_values(self, item: Any) -> Any:
        if torch.is_tensor(item):
            return self._value(item)
        if isinstance(item, (list, tuple)):
            return [self._to_values(element) for element in item]
        return item

    def _remember_constant(self, tensor: torch.Tensor) -> None:
        for alias, value in self._living_aliases(tensor):
            if value.name is not None and value.name not in self._originals:
                self._mutated.add(value.name)
                self._originals[value.name] = (alias, alias.clone())

    def _spread_write(self, tensor: torch.Tensor) -> None:
        """Record that a write through ``tensor`` changed every other tensor on its storage."""
        changed = self._value(tensor)
        for alias, value in self._living_aliases(tensor):
            if alias is not tensor:
                self._record("write", None, {"self": value, "by": changed}, [alias])
