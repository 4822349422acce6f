"""Exports ONNX by torch's dynamo exporter, or by the TorchScript-based exporter as a fallback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from deployfold.config import row_names
from deployfold.errors import ExportError, first_line
from deployfold.runtimes import ONNX_RUNTIME
from deployfold.runtimes.tensors import to_array
from deployfold.util.onnx_files import onnx_bytes

from . import onnx_graph, torch_onnx
from .dynamic import checking_inputs
from .exporter import ExportedFile, Exporter, ExportJob
from .neutral import drop_zero_additions
from .outputs import check_outputs, flatten_outputs, is_torchscript, refuse_text
from .pixels import cast_first
from .session import open_session, run_session
from .storage import EXTERNAL_DATA_BYTES, scratch_file, staged, write_model
from .unsupported import unsupported


@dataclass(frozen=True, kw_only=True)
class OnnxArtifact(ExportedFile):
    """An ONNX file on disk, checked and run.

    Attributes:
        exporter: the exporter of torch that wrote the file.
        fallback_reason: why the dynamo exporter was not used; ``None`` if it was used.
        input_names, output_names: the names in the graph, in order.
        batchnorm_nodes: number of BatchNormalization nodes left in the graph.
        external_data: whether the weights are in a second file, ``<name>.data``.
        operators: the types of all nodes.
    """

    exporter: Literal["dynamo", "torchscript"]
    fallback_reason: str | None
    opset: int
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    batchnorm_nodes: int
    external_data: bool
    operators: frozenset[str]

    @property
    def row_notes(self) -> tuple[str, ...]:
        """The notes, and why the fallback exporter was used."""
        if self.fallback_reason is None:
            return self.notes
        return (*self.notes, f"TorchScript-based ONNX exporter: {self.fallback_reason}")

    @property
    def detail(self) -> str:
        """Opset and exporter."""
        return f"opset {self.opset}, {self.exporter} exporter"

    @property
    def batchnorms(self) -> int | None:
        """BatchNormalization nodes left in the graph."""
        return self.batchnorm_nodes


@dataclass(frozen=True)
class _Compared:
    """The eager module's outputs on one input, or on two inputs if axes are dynamic."""

    inputs: tuple[tuple[torch.Tensor, ...], ...]
    outputs: tuple[tuple[torch.Tensor, ...], ...]
    nested: object
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    batches: tuple[int, ...]


def export_onnx(
    job: ExportJob,
    path: Path,
    program: ExportedProgram | str,
    *,
    external_threshold: int = EXTERNAL_DATA_BYTES,
    compared_as: Callable[[ir.Model], ir.Model] | None = None,
) -> OnnxArtifact:
    """Write a model as ONNX, check the file, run it in ONNX Runtime and compare.

    Inputs keep the names of the job; outputs get those of :func:`~.outputs.flatten_outputs`. With
    a dynamic batch, the first axis of the inputs is called ``batch``, and the file runs at two
    batch sizes. Two exports of one model give the same bytes.

    Args:
        program: the job's program, or the reason why there is none.
        external_threshold: bytes of weights above which they go to a second file.
        compared_as: makes the graph that is compared with the module; by default that of the file.

    Raises:
        ExportError: neither exporter writes a valid graph of the same function.
    """
    compared = _compared(job)
    reason = program if isinstance(program, str) else ""
    if is_torchscript(job.module):
        refuse_text(compared.nested, "the ONNX of a TorchScript model")
        reason = "the model is TorchScript, which torch.export does not take"
    elif not isinstance(program, str):
        try:
            names = compared.input_names, compared.output_names
            model = torch_onnx.dynamo(program, *names)
            return _finish(model, path, compared, job.metadata, external_threshold, "dynamo")
        except ExportError as error:
            reason = error.message.rstrip(".")
        except Exception as error:
            reason = f"the dynamo exporter failed: {first_line(error)}"
    try:
        model, notes = _torchscript(job.module, compared)
    except Exception as error:
        refused = None if isinstance(program, str) else program
        raise unsupported(refused, first_line(error), reason) from error
    return _finish(
        model, path, compared, job.metadata, external_threshold, "torchscript", reason, notes,
        compared_as,
    )  # fmt: skip


def _compared(job: ExportJob) -> _Compared:
    spec, reference = job.spec, job.reference
    checks = checking_inputs(job.inputs, spec)
    if any(one.dtype == torch.bfloat16 for one in (*job.inputs, *job.module.parameters())):
        raise ExportError(
            "ONNX Runtime cannot run bfloat16 models on the CPU, so the export cannot be checked.",
            hint="Convert the model with .float() first; the precision is chosen when lowering.",
        )
    nested = reference.nested(checks[0])
    outputs, names = flatten_outputs(nested)
    others = [reference.flat(check) for check in checks[1:]]
    taken = {name: f"{name}_output" for name in names if name in spec.names}
    batches = tuple(next(v.shape[0] for v in check if v.ndim) for check in checks[:2])
    return _Compared(
        inputs=checks,
        outputs=(outputs, *others),
        nested=nested,
        input_names=spec.names,
        output_names=tuple(taken.get(name, name) for name in names),
        batches=batches,
    )


def _shapes(tensors: tuple[torch.Tensor, ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)


def _torchscript(module: torch.nn.Module, compared: _Compared) -> tuple[ir.Model, tuple[str, ...]]:
    axes: dict[str, dict[int, str]] = {}
    if len(compared.inputs) == 2:
        batches = (compared.batches[0], compared.batches[1])
        for names, pair in (
            (compared.input_names, compared.inputs),
            (compared.output_names, compared.outputs),
        ):
            before, after = _shapes(pair[0]), _shapes(pair[1])
            axes |= torch_onnx.dynamic_axes(names, before, after, batches)
    return torch_onnx.torchscript(
        module,
        compared.inputs[0],
        compared.input_names,
        compared.output_names,
        axes,
        compared.nested,
    )


def _finish(
    model: ir.Model,
    path: Path,
    compared: _Compared,
    metadata: Mapping[str, str],
    threshold: int,
    exporter: Literal["dynamo", "torchscript"],
    reason: str | None = None,
    notes: tuple[str, ...] = (),
    compared_as: Callable[[ir.Model], ir.Model] | None = None,
) -> OnnxArtifact:
    onnx_graph.strip(model)
    drop_zero_additions(model)
    cast_first(model)
    first = compared.inputs[0]
    dtypes = [str(value.dtype).removeprefix("torch.") for value in first]
    dropped = onnx_graph.restore_inputs(model, compared.input_names, dtypes, _shapes(first))
    notes += tuple(f"The model does not use its input {name!r}." for name in dropped)
    names = tuple(str(value.name) for value in model.graph.outputs)
    if names != compared.output_names:
        raise ExportError(f"The exporter named the outputs {', '.join(names)}.")
    if len(compared.inputs) == 2:
        onnx_graph.name_axes(
            model,
            (_shapes(first), _shapes(compared.inputs[1])),
            (_shapes(compared.outputs[0]), _shapes(compared.outputs[1])),
            (compared.batches[0], compared.batches[1]),
        )
    onnx_graph.set_metadata(model, metadata)
    broken = onnx_graph.non_finite_weights(model)
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        notes += (f"The weight {broken[0]!r}{more} holds infinities or NaN.",)
    with staged(path) as temporary:
        external = write_model(model, temporary, threshold=threshold)
        check_file(temporary)
        if compared_as is None:
            difference = _compare(temporary, compared)
        else:
            with scratch_file(compared_as(model)) as file:
                difference = _compare(file, compared)
    return OnnxArtifact(
        path=path,
        bytes=onnx_bytes(path),
        exporter=exporter,
        fallback_reason=reason,
        opset=model.opset_imports[""],
        input_names=compared.input_names,
        output_names=names,
        batchnorm_nodes=onnx_graph.count_nodes(model, "BatchNormalization"),
        external_data=external,
        operators=onnx_graph.operators(model),
        max_abs_diff=difference,
        notes=notes,
    )


def check_file(path: Path) -> None:
    """Run ``onnx.checker`` with full (strict) shape inference on a file.

    Raises:
        ExportError: the graph is not valid ONNX.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        raise ExportError(f"The ONNX graph is not valid: {first_line(error)}") from error


def _compare(path: Path, compared: _Compared) -> float:
    session = open_session(path)
    largest = 0.0
    for inputs, outputs in zip(compared.inputs, compared.outputs, strict=True):
        arrays = [to_array(value) for value in inputs]
        feeds = dict(zip(compared.input_names, arrays, strict=True))
        results = run_session(session, feeds)
        largest = max(largest, check_outputs(outputs, results, what="The ONNX model"))
    return largest


def _export(job: ExportJob, path: Path) -> OnnxArtifact:
    try:
        program: ExportedProgram | str = job.program
    except ExportError as error:
        program = error.message
    return export_onnx(job, path, program)


ONNX = Exporter(
    key="onnx",
    row=row_names.FP32_ONNX,
    title="ONNX Runtime",
    label="ONNX",
    runtime=ONNX_RUNTIME,
    export=_export,
    required=True,
)
