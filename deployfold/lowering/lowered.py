"""What the precisions without calibration share: reading, running, and the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from deployfold.config.precision import Precision
from deployfold.errors import ExportError, first_line
from deployfold.exporting.onnx_graph import set_metadata
from deployfold.exporting.session import Array, open_session, run_session
from deployfold.exporting.storage import onnx_bytes, write_model
from deployfold.util.numerics import max_abs_diff, sqnr_db


@dataclass(frozen=True)
class KeptNode:
    """A node that stays in fp32; ``reason`` is a clause such as ``its output reaches 1e+05, …``."""

    name: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class LoweredArtifact:
    """An ONNX file in a lower precision.

    Attributes:
        bytes: size of the file and of its external data.
        kept_fp32: the nodes that stay in fp32, in graph order.
        sqnr_db: signal-to-quantisation-noise ratio in dB of its outputs against the fp32 model's,
            pooled over all floating-point outputs and inputs, with every 16-bit tensor rounded
            (see :mod:`deployfold.lowering.emulate`); ``inf`` where nothing differs.
        max_abs_diff: largest absolute difference of the same outputs.
        notes: sentences for the user.
    """

    path: Path
    bytes: int
    precision: Precision
    kept_fp32: tuple[KeptNode, ...]
    sqnr_db: float
    max_abs_diff: float
    notes: tuple[str, ...] = ()


def lowered_artifact(
    path: Path,
    written: Path,
    precision: Precision,
    *,
    reference: Sequence[Array] = (),
    outputs: Sequence[Array] = (),
    kept: tuple[KeptNode, ...] = (),
    notes: tuple[str, ...] = (),
) -> LoweredArtifact:
    """What to say of the file ``written``, which is about to be ``path``.

    Args:
        reference, outputs: what the fp32 model and the lowered one gave; of none, nothing differs.
    """
    expected, actual = floats(reference), floats(outputs)
    return LoweredArtifact(
        path=path,
        bytes=onnx_bytes(written),
        precision=precision,
        kept_fp32=kept,
        sqnr_db=sqnr_db(expected, actual),
        max_abs_diff=max_abs_diff(expected, actual),
        notes=notes,
    )


def load(source: Path, *, weights: bool = True) -> ir.Model:
    """Read an exported ONNX.

    Args:
        weights: into memory as well; otherwise external data of the main graph stays in its file,
            which must not go.

    Raises:
        ExportError: it cannot be read.
    """
    try:
        model = ir.load(source)
        if weights:
            ir.external_data.load_to_model(model)
        for graph in model.graphs():
            for value in () if graph is model.graph else graph.initializers.values():
                if isinstance(value.const_value, ir.ExternalTensor):
                    value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
    except Exception as error:
        raise ExportError(
            f"{source.name} cannot be read as ONNX: {first_line(error)}",
            hint="Give the .onnx file that deployfold export wrote, with its .data file beside it.",
        ) from error
    return model


def holds(model: ir.Model, dtype: ir.DataType) -> bool:
    """Whether an input, an output or a weight has the type."""
    values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    return any(value.dtype == dtype for value in values)


def pass_through(
    model: ir.Model, temporary: Path, precision: Precision, threshold: int
) -> tuple[str, ...]:
    """Write a model that holds no float32 tensors as it is; returns what to say of it.

    Raises:
        ExportError: it computes in another float type.
    """
    lower = {Precision.FP16: ir.DataType.FLOAT16, Precision.BF16: ir.DataType.BFLOAT16}
    types = (ir.DataType.DOUBLE, ir.DataType.BFLOAT16, ir.DataType.FLOAT16)
    for dtype in types:
        if dtype != lower.get(precision) and holds(model, dtype):
            raise ExportError(
                f"The model computes in {dtype.name.lower()}, and {precision.value} is lowered "
                "from float32.",
                hint="Convert the PyTorch model with .float() before exporting it.",
            )
    set_metadata(model, {"deployfold.precision": precision.value})
    write_model(model, temporary, threshold=threshold)
    return ("The model holds no float32 tensors: it is taken as it is.",)


def complete_types(model: ir.Model, dtypes: Mapping[str, np.dtype[np.generic]]) -> None:
    """Give every tensor the type that it was seen to have, where shape inference found none.

    Casts are put only where the type is known.
    """
    for node in model.graph:
        for value in node.outputs:
            if value.type is None and value.name in dtypes:
                value.type = ir.TensorType(ir.DataType.from_numpy(dtypes[value.name]))


def outputs_of(model: Path, inputs: Sequence[Mapping[str, Array]]) -> list[Array]:
    """All outputs for all inputs, without ONNX Runtime's optimisations.

    Raises:
        ExportError: it does not run.
    """
    session = open_session(model, optimize=False)
    return [array for feeds in inputs for array in run_session(session, feeds)]


def floats(arrays: Sequence[Array]) -> list[Array]:
    """Those of the arrays that hold floats."""
    return [array for array in arrays if array.dtype.kind == "f"]


def is_lost(reference: Sequence[Array], outputs: Sequence[Array]) -> bool:
    """Whether an output is infinite or NaN where the reference is not."""
    return any(
        bool((np.isfinite(expected) & ~np.isfinite(actual)).any())
        for expected, actual in zip(floats(reference), floats(outputs), strict=True)
    )
