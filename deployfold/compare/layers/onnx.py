"""The layers of an ONNX graph: the outputs of its nodes, by node and by module."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from deployfold.errors import MeasureError, UsageError, first_line
from deployfold.exporting.onnx_graph import module_of
from deployfold.exporting.storage import write_model
from deployfold.lowering.activations import iterate_activations
from deployfold.lowering.emulate import emulate
from deployfold.lowering.graph import PRECISION_KEY
from deployfold.lowering.qdq.equalise import EQUALISED_KEY
from deployfold.lowering.qdq.recentre import SHIFT_KEY
from deployfold.util.arrays import Array
from deployfold.util.onnx_values import LAYERS

from .side import Folds, LayerOutput, Side, model_output

Feed = Mapping[str, Array]
Tensors = dict[str, tuple[int, ...]]

_HALVES = {ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16"}
_FLOATS = frozenset({*_HALVES, ir.DataType.FLOAT, ir.DataType.DOUBLE, None})
_NO_LAYERS = frozenset(
    "Constant Cast Identity QuantizeLinear DequantizeLinear Shape ConstantOfShape Range".split()
)


class OnnxSide:
    """An ONNX file in ONNX Runtime without optimisations; see :class:`~.side.Side`.

    ONNX Runtime has no 16-bit kernels for CPUs. So casts in a copy of the file round 16-bit tensors
    (:mod:`deployfold.lowering.emulate`).

    Args:
        model: the result of :func:`read` for ``path``, which is changed.
        feeds: arrays by input name.
        scratch: an empty directory for the copy.
    """

    def __init__(self, path: Path, model: ir.Model, feeds: Sequence[Feed], scratch: Path) -> None:
        self.name = path.name
        self._feeds = feeds
        self._path = path
        self.precision = _precision(model)
        self.tensors: Tensors = {
            name: tuple(value.shape.numpy()) if value.shape is not None else ()
            for name, value in model.graph.initializers.items()
        }
        self.points: Sequence[LayerOutput] = _points(model)
        self._model = model
        self._rounded: dict[Hashable, str] = {}
        if _halves(model):
            self._path = self._emulated(model, scratch)

    def folds(self, other: Side) -> Folds:
        """BatchNormalization nodes after the layers that take them up; see :class:`.Side`."""
        interior: set[Hashable] = set()
        taken_up: dict[LayerOutput, LayerOutput] = {}
        by_tensor = {point.tensor: point for point in self.points}
        theirs = {key for point in other.points for key in point.keys}
        for value, source in _normalised(self._model):
            point, partner = by_tensor.get(value), by_tensor.get(source)
            if point is None or partner is None or theirs.intersection(point.keys):
                continue
            interior.add(partner.tensor)
            taken_up[point] = partner
        return Folds(frozenset(interior), taken_up)

    def run(self, points: Sequence[LayerOutput]) -> Iterator[list[Array]]:
        """See :class:`~.side.Side`."""
        names = [self._rounded.get(point.handle, str(point.handle)) for point in points]
        values = iterate_activations(self._path, self._feeds, names=names, budget=sys.maxsize)
        for number, group in groupby(values, key=lambda one: one.feed):
            found = {one.name: one.array for one in group}
            missing = next((name for name in names if name not in found), None)
            if missing is not None:
                raise MeasureError(f"{self.name} does not compute {missing} on input {number}.")
            yield [
                found[name] + point.shift if point.shift else found[name]
                for name, point in zip(names, points, strict=True)
            ]

    def _emulated(self, model: ir.Model, scratch: Path) -> Path:
        for half in _halves(model):
            emulate(model, half)
        names = {str(value.name) for node in model.graph for value in node.outputs}
        for point in self.points:
            rounded = f"{point.handle}__down__up"
            if rounded in names:
                self._rounded[point.handle] = rounded
        copy = scratch / self.name
        write_model(model, copy)
        return copy


def read(path: Path) -> ir.Model:
    """Read an ONNX file with its weights, and infer the types of 16-bit tensors.

    Raises:
        UsageError: the file is not an ONNX.
    """
    try:
        model = ir.load(path)
        ir.external_data.load_to_model(model)
        if _halves(model):
            ShapeInferencePass()(model)
    except Exception as error:
        raise UsageError(f"{path} cannot be read as ONNX: {first_line(error)}.") from error
    return model


def _halves(model: ir.Model) -> list[ir.DataType]:
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [value for node in model.graph for value in node.outputs]
    present = {value.dtype for value in values}
    return [dtype for dtype in _HALVES if dtype in present]


def _precision(model: ir.Model) -> str:
    written = model.metadata_props.get(PRECISION_KEY)
    if written is not None:
        return str(written)
    if any(node.op_type == "DequantizeLinear" for node in model.graph):
        return "int8"
    return next((_HALVES[dtype] for dtype in _halves(model)), "fp32")


def _points(model: ir.Model) -> list[LayerOutput]:
    modules = _module_keys(model)
    found = []
    for node in model.graph:
        value = node.outputs[0] if len(node.outputs) == 1 else None
        if value is None or not value.name or value.dtype not in _FLOATS:
            continue
        keys = modules.get(node, [])
        paths = [str(key[1]) for key in keys]
        if node.op_type in _NO_LAYERS and not keys:
            continue
        if all(v is None or v.const_value is not None for v in node.inputs):
            continue
        own: tuple[Hashable, ...] = (("node", node.name, node.op_type),) if node.name else ()
        name = max(paths, key=len) if paths else str(value.name)
        found.append(
            LayerOutput(
                name,
                node.op_type,
                (*own, *keys),
                value.name,
                value,
                _elements(value),
                exact=bool(own) and node.op_type not in _NO_LAYERS,
                weights=node.op_type in LAYERS,
                by_channel=EQUALISED_KEY in node.metadata_props,
                shift=float(node.metadata_props.get(SHIFT_KEY, 0.0)),
            )
        )
    for index, value in enumerate(model.graph.outputs):
        if value.dtype in _FLOATS and value.name and value.producer() is not None:
            found.append(model_output(value.name, index, value.name, value, _elements(value)))
    return found


def _elements(value: ir.Value) -> int | None:
    if value.shape is None:
        return None
    sizes = [size for size in value.shape if isinstance(size, int)]
    return math.prod(sizes) if len(sizes) == len(value.shape) else None


def _module_keys(model: ir.Model) -> dict[ir.Node, list[tuple[Hashable, ...]]]:
    """The pairing keys of every module call, by the call's last node."""
    by_scope: dict[str, list[ir.Node]] = defaultdict(list)
    by_weights: dict[str, list[ir.Node]] = defaultdict(list)
    before: set[str] = set()
    owner_before = None
    for node in model.graph:
        scope, owner = module_of(node), _owner(node)
        if owner is not None and owner == owner_before:  # its weight, and then its bias
            by_weights[owner][-1] = node
        elif owner is not None:
            by_weights[owner].append(node)
        owner_before = owner or owner_before
        if not scope:
            continue
        parts = scope.split(".")
        around = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
        for path in around:
            if path in before:
                by_scope[path][-1] = node
            else:  # another call begins
                by_scope[path].append(node)
        before = around
    keys: dict[ir.Node, list[tuple[Hashable, ...]]] = defaultdict(list)
    for kind, calls in (("module", by_scope), ("weights", by_weights)):
        for path, nodes in calls.items():
            for number, node in enumerate(nodes):
                keys[node].append((kind, path, number, len(nodes)))
    return keys


def _owner(node: ir.Node) -> str | None:
    """The module whose weights a node reads."""
    if node.op_type in _NO_LAYERS:
        return None
    if node.op_type in LAYERS and module_of(node):
        return module_of(node)
    weights = [v for v in node.inputs if v is not None and v.const_value is not None]
    named = [str(value.name).rpartition(".")[0] for value in weights if "." in str(value.name)]
    return next(iter(named), None) or (_scope_in_name(node.name or "") if weights else None)


def _scope_in_name(name: str) -> str | None:
    """The module in a node name of torch's older exporter.

    For example, ``/layer1/layer1.0/conv1/Conv`` gives ``layer1.0.conv1``. The exporter names the
    second call of a module ``conv1_1``, which looks like another module.
    """
    parts = name.split("/")
    if len(parts) < 3 or parts[0]:
        return None
    path = ""
    for part in parts[1:-1]:
        whole = not path or part.startswith(f"{path}.")
        path = part if whole else f"{path}.{part}"
    return path


def _normalised(model: ir.Model) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The outputs of every BatchNormalization and of the layer that it alone reads."""
    for node in model.graph:
        source = node.inputs[0] if node.op_type == "BatchNormalization" else None
        layer = None if source is None else source.producer()
        if source is None or layer is None or layer.op_type not in LAYERS:
            continue
        if len(list(source.uses())) == 1:
            yield node.outputs[0], source
