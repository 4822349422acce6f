"""Converts the rest of a quantised model, that is everything outside the quantised layers.

With a 16-bit rest, the guard of the family ``cast`` first finds the nodes of the fp32 model that
must stay in fp32. A quantised model then keeps these nodes in fp32, and the nodes with scales or
dequantised values that the 16-bit type cannot hold. Every quantised model is measured as the final
file: with the rest converted, and each 16-bit tensor rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from deployfold.config.precision import Precision
from deployfold.errors import AccuracyError
from deployfold.lowering.accuracy import Measurer
from deployfold.lowering.cast.convert import convert
from deployfold.lowering.cast.formats import FORMATS, CastFormat
from deployfold.lowering.cast.guard import CastGuard
from deployfold.lowering.cast.ranges import TensorRange, weight_ranges
from deployfold.lowering.cast.selection import out_of_range
from deployfold.lowering.emulate import emulate
from deployfold.lowering.graph import lazy
from deployfold.lowering.progress import Progress
from deployfold.lowering.request import Feed, LoweringOptions
from deployfold.lowering.result import HeadRoom, KeptNode

from .formats import Format
from .layers import QuantisedLayer, dequantised_input, dequantised_weight, insert
from .qdq_nodes import DEQUANTISE, along, scales
from .quantise import LayerResult

STRICTER_DB = 10.0
"""Margin of the rest over the SQNR limit of the quantised model. The noise of the rest then takes a
tenth of the allowed noise."""


@dataclass(frozen=True)
class Rest:
    """The plan for the rest of a model.

    Attributes:
        precision: FP16, or FP32 for an unchanged rest.
        kept: nodes that stay in fp32, with the reason.
        ranges: the ranges of the fp32 model's tensors.
        head_room: the least head-room of the float16 tensors.
    """

    precision: Precision
    kept: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, TensorRange] = field(default_factory=dict)
    head_room: HeadRoom | None = None
    float_io: bool = True
    notes: tuple[str, ...] = ()

    @property
    def form(self) -> CastFormat | None:
        """The 16-bit type; ``None`` for an fp32 rest."""
        return FORMATS.get(self.precision)

    def lower(self, model: ir.Model) -> list[KeptNode]:
        """Convert the rest of a quantised model in place; returns the nodes that stay in fp32."""
        if self.form is None:
            return []
        kept = dict(self.kept)
        if self.form.limited_range:
            kept = out_of_range(model, self.ranges) | kept
        _keep_pairs(model, kept)
        stays = convert(model, self.form, kept, float_io=self.float_io)
        return [KeptNode(str(node.name), node.op_type, reason) for node, reason in stays]


def plan_rest(
    model: ir.Model,
    source: Path,
    inputs: Sequence[Feed],
    asked: Mapping[str, str],
    limit_db: float | None,
    options: LoweringOptions,
    scratch: Path,
    progress: Progress,
    largest: Sequence[Feed] = (),
) -> Rest:
    """Plan the rest of the prepared fp32 ``model``.

    A rest that cannot keep its accuracy in 16 bits stays in fp32, with a note.

    Args:
        limit_db: the SQNR limit (dB) of the quantised model; ``None`` for no limit.
        largest: inputs at the largest shapes, for ranges only.

    Raises:
        AccuracyError: the rest needs fp32, and the user asked for float16 inputs and outputs.
    """
    form = FORMATS.get(options.rest)
    if form is None:
        return Rest(Precision.FP32)
    progress(f"which nodes {form.name} cannot hold")
    guard = CastGuard(
        model, form, inputs, Measurer(source, inputs, None), scratch,
        float_io=options.float_io, progress=progress, largest=largest,
    )  # fmt: skip
    if limit_db is not None:
        limit_db = max(options.guard.min_sqnr(options.rest), limit_db + STRICTER_DB)
    try:
        found = guard.keep_accuracy(asked, limit_db)
    except AccuracyError as error:
        if not options.float_io:
            raise  # an fp32 rest cannot have float16 inputs
        note = f"the rest is in fp32, not {form.name}: {error.message}"
        return Rest(Precision.FP32, notes=(note,))
    ranges = found.ranges | {
        dequantised_weight(str(node.name)): seen
        for name, seen in weight_ranges(model).items()
        for node, _ in model.graph.initializers[name].uses()
    }
    ranges |= {dequantised_input(name): seen for name, seen in found.ranges.items()}
    return Rest(options.rest, found.kept, ranges, found.head_room, options.float_io, found.notes)


def build(
    proto: onnx.ModelProto, results: Sequence[LayerResult], form: Format, rest: Rest | None
) -> tuple[ir.Model, list[KeptNode]]:
    """Build the quantised model; returns the model and the nodes that stay in fp32.

    Args:
        results: the layers; a layer without a quantised version stays.
        rest: the plan for the rest; ``None`` leaves the rest in fp32.
    """
    model = ir.serde.deserialize_model(proto)
    quantised: dict[str, QuantisedLayer] = {
        result.layer.name: result.quantised for result in results if result.quantised is not None
    }
    insert(model, quantised, form)
    return model, [] if rest is None else rest.lower(model)


def round_rest(model: ir.Model, rest: Rest) -> None:
    """Make a built model round every 16-bit tensor when a CPU runs it, in place.

    Dequantised weights become constants, which a CPU would compute anew at each run.
    """
    for node in list(model.graph):
        codes = (
            node.inputs[0].const_value if node.op_type == DEQUANTISE and node.inputs[0] else None
        )
        if codes is None or node.attributes.get_int("block_size", 0):
            continue
        output = node.outputs[0]
        tensor = _dequantised(node, codes)
        folded = ir.Value(
            name=tensor.name, const_value=tensor, shape=tensor.shape, type=output.type
        )
        model.graph.register_initializer(folded)
        ir.convenience.replace_all_uses_with(output, folded)
        model.graph.remove(node, safe=True)
    if rest.form is not None:
        emulate(model, rest.form.dtype)


def _dequantised(node: ir.Node, codes: ir.TensorProtocol) -> ir.LazyTensor:
    """The output of a DequantizeLinear for constant codes with zero point 0."""
    output = node.outputs[0]
    dtype = output.dtype or ir.DataType.FLOAT
    step = along(scales(node), codes.numpy(), node)
    return lazy(
        codes, dtype, f"{output.name}__folded",
        lambda values: (values.astype(np.float32) * step).astype(dtype.numpy()),
    )  # fmt: skip


def _keep_pairs(model: ir.Model, kept: dict[str, str]) -> None:
    """Keep in fp32 the DequantizeLinear nodes before a kept layer, and all their other readers.

    TensorRT fuses a layer only with a DequantizeLinear directly before the layer; a Cast between
    them prevents the fusion.
    """
    waiting = [node for node in model.graph if node.name in kept]
    while waiting:
        node = waiting.pop()
        if node.op_type == "DequantizeLinear":
            more = [user for user, _ in node.outputs[0].uses()]
        else:
            makers = [value.producer() for value in node.inputs if value is not None]
            more = [one for one in makers if one and one.op_type == "DequantizeLinear"]
        for other in more:
            if other.name not in kept:
                kept[str(other.name)] = f"its neighbour {node.name} stays in fp32"
                waiting.append(other)
