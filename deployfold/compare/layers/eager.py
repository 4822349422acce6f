"""The layers of an eager model: the outputs of its modules."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from deployfold.errors import MeasureError, UsageError, first_line
from deployfold.exporting.outputs import flatten_outputs, is_torchscript
from deployfold.folding.graph.graph import Call, Graph, Op, Value
from deployfold.folding.graph.trace import trace
from deployfold.folding.modules import copy_modules, named_tensors
from deployfold.runtimes.tensors import to_array
from deployfold.util.arrays import Array
from deployfold.util.seeded import Seeded

from .folding import find_folds
from .side import Folds, LayerOutput, Side, model_output

Inputs = tuple[torch.Tensor, ...]


class EagerSide:
    """A module with its submodules; see :class:`~.side.Side`.

    Args:
        feeds: the arguments of each forward.

    Raises:
        FoldError: the module does not run on these inputs.
    """

    def __init__(self, name: str, module: nn.Module, feeds: Sequence[Inputs]) -> None:
        self.name = name
        self._module = module
        self._feeds = feeds
        self._graph = trace(module, feeds[0])
        self.tensors = {key: tuple(tensor.shape) for key, tensor in named_tensors(module)}
        self.precision = _precision(module)
        self.points: Sequence[LayerOutput] = _points(self._graph)

    def folds(self, other: Side) -> Folds:
        """See :class:`~.side.Side`."""
        return find_folds(self._module, self._feeds[0], self._graph, self.points, other.tensors)

    def run(self, points: Sequence[LayerOutput]) -> Iterator[list[Array]]:
        """See :class:`~.side.Side`. Values are copied, because later layers may overwrite them."""
        wanted = {point.handle for point in points}
        for feed in self._feeds:
            found = _capture(self._module, feed, wanted)
            missing = next((one.name for one in points if one.handle not in found), None)
            if missing is not None:
                raise MeasureError(f"{self.name} does not run {missing} on every input.")
            yield [found[point.handle] for point in points]


def check_visible(name: str, module: nn.Module) -> None:
    """Refuse a module without visible submodules.

    Raises:
        UsageError: the module is a compiled graph.
    """
    if is_torchscript(module) or isinstance(module, torch.fx.GraphModule):
        raise UsageError(
            f"The layers of {name} are not visible, because it is a compiled graph.",
            hint="Give the checkpoint that it was made from, the folded .pt, or an .onnx.",
        )


def _precision(module: nn.Module) -> str:
    types = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()}
    names = {torch.float16: "fp16", torch.bfloat16: "bf16"}
    return next((name for dtype, name in names.items() if dtype in types), "fp32")


def _capture(module: nn.Module, feed: Inputs, wanted: set[Hashable]) -> dict[Hashable, Array]:
    copy = copy_modules(module)  # a forward may write to its module
    paths = {id(one): path for path, one in copy.named_modules()}
    calls: Counter[str] = Counter()
    found: dict[Hashable, Array] = {}

    def leave(one: nn.Module, arguments: Any, result: Any) -> None:
        path = paths[id(one)]
        handle = ("call", path, calls[path])
        calls[path] += 1
        if handle in wanted:
            tensor = next(iter(flatten_outputs(result)[0]))
            found[handle] = to_array(tensor)

    handles = [one.register_forward_hook(leave) for one in copy.modules()]
    try:
        with torch.inference_mode(), Seeded():
            outputs = copy(*(tensor.clone() for tensor in feed))
    except Exception as error:
        raise MeasureError(f"The model fails on these inputs: {first_line(error)}") from error
    finally:
        for handle in handles:
            handle.remove()
    for index, tensor in enumerate(flatten_outputs(outputs)[0]):
        if ("output", index) in wanted:
            found["output", index] = to_array(tensor)
    return found


def _points(graph: Graph) -> list[LayerOutput]:
    """One point for every module call with a single output tensor, and one for every model output.

    A module pairs with its ONNX nodes only if its last operator computes the result: the module's
    last node then has the same output.
    """
    order = graph.operators
    last: dict[Call, Op] = {}
    for op in graph.ops:
        call: Call | None = op.call
        while call is not None:
            last[call] = op
            call = call.parent
    total = Counter(call.path for call in graph.calls)
    seen: Counter[str] = Counter()
    found: list[tuple[tuple[int, int], LayerOutput]] = []
    for call in graph.calls:
        number = seen[call.path]
        seen[call.path] += 1
        value = call.outputs[0] if len(call.outputs) == 1 else None
        made = None if value is None else value.producer
        if not call.path or value is None or made is None or value.constant:
            continue
        if not value.dtype.is_floating_point:
            continue
        which = (call.path, number, total[call.path])
        keys: list[Hashable] = [("call", *which)]
        own = any(_owns(call, one) for one in made.inputs)
        if last.get(call) is made:
            keys.append(("module", *which))
            keys += [("weights", *which)] if own else []
        point = LayerOutput(
            call.path, type(call.module).__name__, tuple(keys), ("call", call.path, number), value,
            math.prod(value.shape), exact=own, weights=own,
        )  # fmt: skip
        found.append(((order[made], -call.path.count(".")), point))
    points = [point for _, point in sorted(found, key=lambda item: item[0])]
    for index, value in enumerate(graph.outputs):
        if value.dtype.is_floating_point:
            name = "output" if len(graph.outputs) == 1 else f"output {index}"
            size = math.prod(value.shape)
            points.append(model_output(name, index, ("output", index), value, size))
    return points


def _owns(call: Call, value: Value) -> bool:
    return value.constant and value.name is not None and value.name.startswith(f"{call.path}.")
