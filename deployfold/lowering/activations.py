"""Reads the intermediate tensors of an ONNX model on given inputs, in bounded memory."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime as ort

from deployfold.errors import ExportError
from deployfold.exporting.session import open_session, run_session
from deployfold.exporting.storage import EXTERNAL_DATA_BYTES, scratch_file
from deployfold.util.arrays import Array
from deployfold.util.memory import available_bytes
from deployfold.util.onnx_files import data_path

DEFAULT_BUDGET = 512 * 2**20
"""Bytes of intermediate tensors that one run may return."""

_UNKNOWN_BYTES = 16 * 2**20  # the assumed size of a tensor without a known shape


@dataclass(frozen=True)
class Activation:
    """One intermediate tensor of one run.

    Attributes:
        name: the name of the tensor in the graph.
        feed: the index of the feed.
        array: the values.
    """

    name: str
    feed: int
    array: Array


def node_outputs(model: ir.Model) -> list[ir.Value]:
    """Every named tensor that a node of the main graph computes, in node order."""
    return [value for node in model.graph for value in node.outputs if value.name]


def iterate_activations(
    source: Path,
    feeds: Sequence[Mapping[str, Array]],
    *,
    names: Sequence[str] | None = None,
    budget: int = DEFAULT_BUDGET,
) -> Iterator[Activation]:
    """Run ``source`` in ONNX Runtime, unoptimised, and yield intermediate tensors.

    Tensors come in chunks of about ``budget`` bytes. Each chunk is computed for every feed in turn,
    with one run of the model a feed. Sequences and optionals are left out.

    Args:
        names: tensors of the main graph to yield; ``None`` yields every node output.
        budget: bytes of tensors that may be in memory at once.

    Raises:
        ExportError: ONNX Runtime cannot load or run the model.
    """
    model = ir.load(source)
    wanted = None if names is None else set(names)
    values = [v for v in node_outputs(model) if wanted is None or v.name in wanted]
    sizes = _symbols(model, feeds)
    for chunk in _chunks(values, sizes, budget):
        with _exposing(source, chunk) as session:
            for index, feed in enumerate(feeds):
                for name, array in zip(chunk, run_session(session, feed, chunk), strict=True):
                    if hasattr(array, "dtype"):
                        yield Activation(name, index, array)


def too_large(model: ir.Model, feeds: Sequence[Mapping[str, Array]]) -> str | None:
    """Why a run of a model on large inputs may exhaust the memory; ``None`` if it may not.

    A tensor may take a quarter of the memory that is available. Unknown shapes count as small.
    """
    sizes = _symbols(model, feeds)
    largest = max((_bytes(value, sizes) for value in node_outputs(model)), default=0)
    available = available_bytes()
    if available is None or largest <= available / 4:
        return None
    return f"a tensor of the model would take {largest / 2**30:.1f} GiB there."


def observe(
    model: ir.Model, names: Sequence[str], feeds: Sequence[Mapping[str, Array]]
) -> Iterator[tuple[str, Array]]:
    """Yield the named tensors of an in-memory model on every feed, as pairs of name and array.

    A temporary file with external weights carries the model to ONNX Runtime, because a serialised
    model in memory is limited to 2 GB.

    Raises:
        ExportError: ONNX Runtime cannot run the model.
    """
    if not names:
        return
    with scratch_file(model) as path:
        for activation in iterate_activations(path, feeds, names=names):
            yield activation.name, activation.array


@contextmanager
def scratch_session(model: onnx.ModelProto, weights: int) -> Iterator[ort.InferenceSession]:
    """Open an optimised ONNX Runtime session on a temporary graph, which may have large weights.

    Args:
        weights: bytes of the weights; protobuf cannot serialise more than 2 GiB.

    Raises:
        ExportError: ONNX Runtime cannot load the graph.
    """
    if weights <= EXTERNAL_DATA_BYTES:
        yield open_session(model.SerializeToString())
        return
    with scratch_file(ir.serde.deserialize_model(model)) as path:
        yield open_session(path)


def _symbols(model: ir.Model, feeds: Sequence[Mapping[str, Array]]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for value in model.graph.inputs:
        for feed in feeds:
            if value.name not in feed or value.shape is None:
                continue
            for dimension, size in zip(value.shape, feed[value.name].shape, strict=False):
                if isinstance(dimension, ir.SymbolicDim) and dimension.value:
                    sizes[dimension.value] = max(size, sizes.get(dimension.value, 0))
    return sizes


def _chunks(
    values: Sequence[ir.Value], sizes: Mapping[str, int], budget: int
) -> Iterator[list[str]]:
    chunk: list[str] = []
    used = 0
    for value in values:
        size = _bytes(value, sizes)
        if chunk and used + size > budget:
            yield chunk
            chunk, used = [], 0
        chunk.append(str(value.name))
        used += size
    if chunk:
        yield chunk


def _bytes(value: ir.Value, sizes: Mapping[str, int]) -> int:
    if value.shape is None:
        return _UNKNOWN_BYTES
    dimensions = [
        dimension if isinstance(dimension, int) else sizes.get(str(dimension.value))
        for dimension in value.shape
    ]
    known = [dimension for dimension in dimensions if dimension is not None]
    return math.prod(known) * 8 if len(known) == len(dimensions) else _UNKNOWN_BYTES


@contextmanager
def _exposing(source: Path, names: Sequence[str]) -> Iterator[ort.InferenceSession]:
    proto = onnx.load(str(source), load_external_data=False)
    present = {output.name for output in proto.graph.output}
    # ONNX Runtime infers the type of an output that declares none.
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in present)
    if not data_path(source).exists():
        yield open_session(proto.SerializeToString(), optimize=False)
        return
    # ONNX Runtime resolves external data relative to the file, so the copy lies beside the source.
    try:
        with tempfile.NamedTemporaryFile(
            dir=source.parent, prefix=".tmp-", suffix=".onnx", delete=False
        ) as file:
            file.write(proto.SerializeToString())
    except OSError as error:
        raise ExportError(f"Cannot write a temporary file beside {source.name}.") from error
    try:
        yield open_session(Path(file.name), optimize=False)
    finally:
        Path(file.name).unlink(missing_ok=True)
