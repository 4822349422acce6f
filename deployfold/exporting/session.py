"""Runs ONNX models in ONNX Runtime on the CPU, for the checks of exporters and lowering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from deployfold.errors import ExportError, first_line
from deployfold.util.arrays import Array
from deployfold.util.onnx_files import float_name


def open_session(model: Path | bytes, *, optimize: bool = True) -> ort.InferenceSession:
    """Load an ONNX model into ONNX Runtime's CPU provider.

    Args:
        model: a file, or a serialised model (under 2 GB).
        optimize: let ONNX Runtime fuse and rewrite nodes, except those of Q/DQ pairs; ``False``
            runs the graph unchanged.

    Raises:
        ExportError: ONNX Runtime cannot load the model, or has no CPU kernel for one of its nodes.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # the exception already has the error
    # Between two small runs, spinning threads take three times the CPU time of the runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The integer kernels round otherwise than the file says.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(
            f"ONNX Runtime cannot load the model: {first_line(error)}",
            hint="If it has no CPU kernel for a dtype, convert the PyTorch model with .float().",
        ) from error


def run_session(
    session: ort.InferenceSession, feeds: Mapping[str, Array], names: Sequence[str] | None = None
) -> tuple[Array, ...]:
    """Run a session once, and return its outputs in order, or the outputs in ``names``.

    Arrays for unknown inputs are ignored. Floating-point arrays are cast to the dtype that the
    model declares.

    Raises:
        ExportError: an input is missing, or ONNX Runtime fails on these shapes or values.
    """
    given: dict[str, Array] = {}
    for entry in session.get_inputs():
        if entry.name not in feeds:
            raise ExportError(f"No value was given for the model's input {entry.name!r}.")
        array = np.ascontiguousarray(feeds[entry.name])
        wanted = float_name(entry.type)
        given[entry.name] = (
            array.astype(wanted, copy=False) if wanted and array.dtype.kind == "f" else array
        ).reshape(np.shape(feeds[entry.name]))
    try:
        return tuple(session.run(list(names) if names is not None else None, given))
    except Exception as error:
        raise ExportError(f"ONNX Runtime cannot run the model: {first_line(error)}") from error
