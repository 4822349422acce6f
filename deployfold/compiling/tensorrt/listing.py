"""Reads a built engine back: its kernels, and the precision that each compute layer got.

The libraries list the layers of an engine that was built with detailed profiling verbosity, on
lines that begin with ``Name:``. Two sources give the same lines:

1. The engine inspector of an engine that was loaded on its GPU.
2. The builder's own log at the end of a build, with or without a GPU. TensorRT-RTX 1.7 cannot
   load an engine without a driver («cudaError 35»), so its inspector lists nothing there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from deployfold.compiling.records import BuiltLayer, EngineListing
from deployfold.config.precision import Precision

from .network import BY_OPERAND, ROLES, ComputeLayer, Network, onnx_nodes

_T = TypeVar("_T")

HEADING = "Layers:"
"""The first line of the listing in the builder's log, and in the inspector's text."""

_LINE = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+)")
_TENSORS = r", {}: \[ (.*?) \}}\]"
"""The tensors of one kind on a line."""
_READ, _CONSTANT, _WRITTEN = (
    re.compile(_TENSORS.format(kind)) for kind in ("Inputs", "Constants", "Outputs")
)
_DTYPE = re.compile(r"(?:Format/)?Datatype: ([^,}]+)")
"""TensorRT-RTX lists ``Datatype: Half``, TensorRT ``Format/Datatype: Row major linear FP16``."""
_NO_KERNEL = frozenset({"signal", "wait", "Constant", "NoOp"})
"""Kinds of engine layers that run no kernel."""
_ELEMENTWISE = frozenset({"kgen", "Reformat", "PointWiseV2", "PointWise"})
"""Kinds of engine layers without a convolution or a product in most cases. Such a layer may carry
the node of a convolution, because it adds the bias."""
_TYPES = {
    **{one.record.tensorrt_type.lower(): one.record.tensorrt_type for one in Precision},
    "fp16": "HALF", "fp32": "FLOAT", "bfloat16": "BF16",
}  # fmt: skip
"""The members of ``trt.DataType``, by the words of the listings."""


@dataclass(frozen=True)
class _Kernel:
    """One line of the listing. ``read``, ``constant`` and ``written`` are types of tensors.

    A type is a member of ``trt.DataType``, or empty.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    read: tuple[str, ...]
    constant: tuple[str, ...]
    written: tuple[str, ...]


def read_listing(text: str, network: Network) -> EngineListing | None:
    """Compare the listing of an engine with the network that it was built from.

    Args:
        text: the listing; empty if the library gave none.

    Returns:
        ``None`` if the text lists no layer.
    """
    kernels = [kernel for kernel in map(_kernel, text.splitlines()) if kernel is not None]
    if not kernels:
        return None
    running = [kernel for kernel in kernels if kernel.kind not in _NO_KERNEL]
    return EngineListing(
        kernels=len(running),
        conversions=sum(_only_converts(kernel, network) for kernel in running),
        layers=tuple(_built(layer, running) for layer in network.compute),
    )


def _kernel(line: str) -> _Kernel | None:
    head = _LINE.match(line)
    if head is None:
        return None
    return _Kernel(
        head["name"],
        head["kind"],
        onnx_nodes(line.rpartition("Metadata: ")[2]),
        *(_types(pattern, line) for pattern in (_READ, _CONSTANT, _WRITTEN)),
    )


def _types(pattern: re.Pattern[str], line: str) -> tuple[str, ...]:
    found = pattern.search(line)
    return () if found is None else tuple(map(_type, _DTYPE.findall(found[1])))


def _type(words: str) -> str:
    """The type that a description contains, such as ``Row major Int8 format``; else empty."""
    return next((_TYPES[word] for word in re.findall(r"\w+", words.lower()) if word in _TYPES), "")


def _only_converts(kernel: _Kernel, network: Network) -> bool:
    """Whether a kernel only changes the type or the layout of tensors.

    A kernel without ONNX nodes is a copy that the library inserted.
    """
    kinds = [kind for node in kernel.nodes for kind in network.kinds.get(node, ())]
    return all(ROLES.get(kind) in ("moves", "converts") for kind in kinds)


def _built(layer: ComputeLayer, kernels: Sequence[_Kernel]) -> BuiltLayer:
    """A compute layer of the network with the kernel that it became."""
    kernel = _computes(layer, [one for one in kernels if layer.node in one.nodes])
    asked = _value(layer.precision)
    if kernel is None:
        return BuiltLayer(layer.node, layer.kind, asked)
    got, writes = (
        _value(BY_OPERAND.get(_first(one) or "")) for one in (kernel.read, kernel.written)
    )
    if layer.precision is not None and layer.precision.record.weights_only:
        got = asked if _stores_weight(layer, kernels) else got
    return BuiltLayer(layer.node, layer.kind, asked, got, writes)


def _computes(layer: ComputeLayer, found: Sequence[_Kernel]) -> _Kernel | None:
    """The kernel that computes a layer, of the kernels with its node.

    1. The kernel with the layer's name.
    2. A kernel of a kind that computes convolutions or products.
    3. The first kernel.
    """
    named = [kernel for kernel in found if kernel.name.startswith(layer.node)]
    special = [kernel for kernel in found if kernel.kind not in _ELEMENTWISE]
    return _first((*named, *special, *found))


def _stores_weight(layer: ComputeLayer, kernels: Sequence[_Kernel]) -> bool:
    """Whether the engine stores the weight of a layer in the type that the network has.

    The kernel that dequantises the weight reads it as a constant: the layer's own kernel, or one
    before it.
    """
    nodes = {layer.node, layer.dequantised_by}
    return any(layer.weight in one.constant and nodes & set(one.nodes) for one in kernels)


def _first(items: Iterable[_T]) -> _T | None:
    return next(iter(items), None)


def _value(precision: Precision | None) -> str | None:
    return None if precision is None else precision.value
