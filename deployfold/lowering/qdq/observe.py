"""What tensors of a model hold on calibration samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir

from deployfold.exporting.session import Array, open_session, run_session

_ELEMENTS = 2**26
"""Of the tensors that are kept of one sample at a time: 256 MiB."""


def observe(
    model: ir.Model, names: Sequence[str], feeds: Sequence[Mapping[str, Array]]
) -> Iterator[tuple[str, Array]]:
    """Every named tensor on every sample, as many tensors at a time as memory is for.

    Raises:
        ExportError: ONNX Runtime cannot run the model.
    """
    for turn in _in_turns(model, names):
        proto = ir.to_proto(model)
        del proto.graph.output[:]
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in turn)
        session = open_session(proto.SerializeToString(), optimize=False)
        for feed in feeds:
            yield from zip(turn, run_session(session, feed), strict=True)


def _in_turns(model: ir.Model, names: Sequence[str]) -> Iterator[list[str]]:
    sizes = {
        str(value.name): math.prod(size for size in value.shape or () if isinstance(size, int))
        for node in model.graph
        for value in node.outputs
    }
    turn: list[str] = []
    total = 0
    for name in names:
        if turn and total + sizes[name] > _ELEMENTS:
            yield turn
            turn, total = [], 0
        turn.append(name)
        total += sizes[name]
    if turn:
        yield turn
