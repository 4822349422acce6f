"""Writes ``config.pbtxt``, which tells Triton the inputs, outputs, batches and backend of a model.

The fields are those of ``model_config.proto``, described in
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deployfold.compiling.sidecar import read_sidecar
from deployfold.config.optimization_profiles import OptimizationProfile
from deployfold.errors import BundleError, UsageError
from deployfold.runtimes import TritonModel
from deployfold.util.onnx_files import dims_of, dtype_of, graph_inputs, read_graph

from .pbtxt import Name, text

TYPES = {
    "bool": "TYPE_BOOL", "uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16", "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64", "int8": "TYPE_INT8", "int16": "TYPE_INT16", "int32": "TYPE_INT32",
    "int64": "TYPE_INT64", "float16": "TYPE_FP16", "float32": "TYPE_FP32",
    "float64": "TYPE_FP64", "bfloat16": "TYPE_BF16",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """An input or output. A dynamic axis is -1 in ``shape``."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Interface:
    """The inputs and outputs of a model, and its batches.

    Attributes:
        max_batch: the most rows that Triton may join; 0 if it must not join requests.
        preferred: the batch sizes that the model is fastest at.
        profiles: the number of an engine's optimization profiles; 0 for other artifacts.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch: int = 0
    preferred: tuple[int, ...] = ()
    profiles: int = 0

    @property
    def first_axis_is_dynamic(self) -> bool:
        """Whether the first axis of every tensor is dynamic, as it must be to join requests."""
        return all(one.shape and one.shape[0] < 0 for one in (*self.inputs, *self.outputs))


def onnx_interface(path: Path) -> Interface:
    """The inputs and outputs of an ONNX file, without batches.

    Raises:
        BundleError: an input or output is not a tensor.
    """
    graph = read_graph(path)
    return Interface(
        tuple(map(_onnx_tensor, graph_inputs(graph))), tuple(map(_onnx_tensor, graph.output))
    )


def engine_interface(path: Path) -> Interface:
    """The inputs, outputs and batches of an engine, from its sidecar.

    Raises:
        BundleError: the sidecar does not describe them.
    """
    try:
        tensors = read_sidecar(path).tensors(path)
    except UsageError as error:
        raise BundleError(error.message, hint=error.hint) from error
    profiles = tensors.profiles
    inputs, outputs = (
        tuple(Tensor(one.name, one.dtype, one.shape) for one in side)
        for side in (tensors.inputs, tensors.outputs)
    )
    found = Interface(inputs, outputs, profiles=len(profiles))
    ranges = [one for shapes in profiles for one in shapes]
    if not found.first_axis_is_dynamic or not all(one.opt for one in ranges):
        return found
    best = {one.opt[0] for one in ranges}
    return replace(found, max_batch=_greatest_batch(profiles), preferred=tuple(sorted(best - {1})))


def _greatest_batch(profiles: Sequence[OptimizationProfile]) -> int:
    """The greatest batch up to which an engine accepts every batch size; 0 if it does not accept 1.

    1. If the profiles differ only in the batch, adjacent and overlapping ranges are joined.
    2. Else each profile may be the only one for a shape, so the range common to all counts.
    """
    spans, others = [], set()
    for shapes in profiles:
        low = max(one.min[0] for one in shapes)
        spans.append((low, min(one.max[0] for one in shapes)))
        others.add(tuple((one.min[1:], one.max[1:]) for one in shapes))
    if len(others) > 1:
        return min(high for _, high in spans) if max(low for low, _ in spans) <= 1 else 0
    reach = 0
    for low, high in sorted(spans):
        if low <= reach + 1:
            reach = max(reach, high)
    return reach


def torchscript_interface(onnx: Interface, *, fixed: Sequence[tuple[int, ...]] | None) -> Interface:
    """The inputs and outputs of a TorchScript archive, which stores neither names nor shapes.

    Triton passes the inputs by position, as ``INPUT__0``, and reads ``OUTPUT__0`` likewise.

    Args:
        onnx: the inputs and outputs of the ONNX of the same model.
        fixed: the shapes of the inputs and then of the outputs, if the archive accepts no others.
    """
    inputs = tuple(replace(one, name=f"INPUT__{index}") for index, one in enumerate(onnx.inputs))
    outputs = tuple(replace(one, name=f"OUTPUT__{index}") for index, one in enumerate(onnx.outputs))
    if fixed is None:
        return replace(onnx, inputs=inputs, outputs=outputs)
    shaped = [
        replace(one, shape=tuple(shape))
        for one, shape in zip((*inputs, *outputs), fixed, strict=True)
    ]
    return Interface(tuple(shaped[: len(inputs)]), tuple(shaped[len(inputs) :]))


def config(
    name: str,
    served: TritonModel,
    interface: Interface,
    *,
    instances: int = 1,
    labels: str | None = None,
    by_capability: dict[str, str] | None = None,
) -> str:
    """The text of ``config.pbtxt``.

    1. If requests may be joined, ``max_batch_size`` is the greatest batch, ``dims`` omit the first
       axis, and ``dynamic_batching`` is on.
    2. Else ``max_batch_size`` is 0, and ``dims`` are complete.

    Args:
        name: the name of the model in the repository.
        served: the backend, and the name of the file to serve.
        interface: the inputs, outputs and batches of the file.
        instances: instances of the model on every GPU, or on the CPU.
        labels: the file with the names of the classes, if the model is a classifier.
        by_capability: file names of engines by compute capability: ``{"8.9": "model.plan"}``.
    """
    batched = interface.max_batch > 0
    preferred = [size for size in interface.preferred if size <= interface.max_batch]
    outputs = [tensor_entry(one, batched=batched) for one in interface.outputs]
    if labels is not None and len(outputs) == 1:
        outputs[0]["label_filename"] = labels
    return text(
        {
            "name": name,
            "platform": served.platform,
            "backend": served.backend,
            "max_batch_size": interface.max_batch if batched else 0,
            "input": [tensor_entry(one, batched=batched) for one in interface.inputs],
            "output": outputs,
            "version_policy": {"latest": {"num_versions": 1}},
            "instance_group": [
                {
                    "count": instances,
                    "kind": Name("KIND_GPU" if served.gpu_only else "KIND_AUTO"),
                    # By default, Triton uses only the first profile.
                    "profile": list(map(str, range(interface.profiles)))
                    if interface.profiles > 1
                    else None,
                }
            ],
            "dynamic_batching": {"preferred_batch_size": preferred} if batched else None,
            "default_model_filename": served.file,
            "cc_model_filenames": [
                {"key": key, "value": value} for key, value in sorted((by_capability or {}).items())
            ],
        }
    )


def tensor_entry(tensor: Tensor, *, batched: bool) -> dict[str, Any]:
    """The entry of an input or output in ``config.pbtxt``.

    Raises:
        BundleError: Triton has no such dtype, or refuses such a shape when it loads the model.
    """
    if tensor.dtype not in TYPES:
        raise BundleError(f"Triton has no dtype for {tensor.name!r}, which is {tensor.dtype}.")
    dims = tensor.shape[1:] if batched else tensor.shape
    if not tensor.shape or 0 in dims:
        what = "is a scalar" if not tensor.shape else "has no elements"
        raise BundleError(
            f"Triton does not serve {tensor.name!r}, which {what}.",
            hint="Give the tensor an axis of length 1 in the model, or leave the tensor out.",
        )
    # Triton has no empty shape: one value per sample takes dims [ 1 ] and a reshape.
    plain = {"name": tensor.name, "data_type": Name(TYPES[tensor.dtype]), "dims": list(dims)}
    return plain if dims else plain | {"dims": [1], "reshape": {"shape": []}}


def _onnx_tensor(value: Any) -> Tensor:
    if not value.type.HasField("tensor_type"):
        raise BundleError(f"{value.name!r} is not a tensor, but Triton serves only tensors.")
    shape = tuple(size if isinstance(size, int) else -1 for size in dims_of(value))
    return Tensor(value.name, dtype_of(value), shape)
