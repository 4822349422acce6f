"""Folding and writing a model that is an ONNX.

The given file in ONNX Runtime is the original that every row is compared with. The stages behind
the export are the same as for a model from PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from deployfold.config import row_names
from deployfold.config.build_spec import BuildSpec
from deployfold.config.inputs import InputSpec
from deployfold.errors import DeployfoldError, ExportError, FoldError, UsageError, first_line
from deployfold.exporting import onnx_graph
from deployfold.exporting.given import (
    drop_identities,
    in_single_precision,
    repair,
    with_branches_decided,
)
from deployfold.exporting.onnx import ONNX, check_file
from deployfold.exporting.pixels import cast_first
from deployfold.exporting.program import PROGRAM
from deployfold.exporting.storage import staged, write_model
from deployfold.exporting.torch_onnx import OPSET
from deployfold.folding import FoldResult, Verification
from deployfold.folding.onnx import absorb, fold_graph
from deployfold.loading.onnx_module import OnnxModule
from deployfold.lowering.graph import load as load_graph
from deployfold.lowering.graph import prepare
from deployfold.lowering.opset import raise_opset
from deployfold.lowering.qdq.given import clip_values, quantised_as, take_over
from deployfold.lowering.qdq.given_weights import VisibleWeights
from deployfold.lowering.qdq.qdq_nodes import DEQUANTISE, QUANTISE
from deployfold.runtimes import ONNX_RUNTIME
from deployfold.runtimes.eager import EagerRunner
from deployfold.runtimes.protocol import Runner
from deployfold.util.onnx_files import onnx_bytes

from .artifact import Artifact
from .journal import Journal
from .load import Loaded
from .onnx_comparison import Checks, checks_of
from .onnx_frames import FramedOnnx
from .quantised_training import TrainedOnnx
from .results import Exported, Folded
from .settings import run_settings

_BATCH_NORM = "BatchNormalization"
_PROOF = "each fold was compared with the nodes that it replaced; no other node was changed"
_NO_PROGRAM = "a .pt2 is not exported from an ONNX, nor from a model in quantisation-aware training"


class GraphModule(torch.nn.Module):
    """A folded graph on its way from folding to the export; nothing calls it."""

    def __init__(self, graph: ir.Model) -> None:
        super().__init__()
        self.graph = graph


def fold_onnx(loaded: Loaded, spec: BuildSpec, journal: Journal) -> Folded:
    """Fold the BatchNormalization nodes of the given ONNX.

    Raises:
        FoldError: the file does not run on the inputs, or cannot be brought into float32.
    """
    module = loaded.model.module
    assert isinstance(module, OnnxModule)
    with journal.running("fold", "reading, folding and verifying") as stage:
        checks = checks_of(module, loaded)
        graph, notes, checks = _standard_form(module.path, checks, loaded.inputs)
        for value, output in zip(graph.graph.outputs, checks.outputs[0], strict=True):
            if value.shape is None:  # ONNX's checker wants the number of axes
                value.shape = ir.Shape([None] * output.dim())
        before, parameters = onnx_graph.count_nodes(graph, _BATCH_NORM), _parameters(graph)
        weights = VisibleWeights(graph)
        found = fold_graph(graph)
        if isinstance(module, FramedOnnx):
            notes += (absorb(graph, module.frames),)
        weights.hide()
        try:
            native = checks.compare(graph)
        except DeployfoldError as error:
            raise FoldError(
                f"The folded graph differs from {module.path.name}: {error.message}",
                hint="The model may be random, or sort by scores that are equal, as an untrained "
                "detector does; give real inputs with --input-data.",
            ) from error
        result = FoldResult(
            model=GraphModule(graph),
            folded=found.folded,
            left=found.left,
            parameters_before=parameters,
            parameters_after=_parameters(graph),
            batchnorms_before=before,
            batchnorms_after=onnx_graph.count_nodes(graph, _BATCH_NORM),
            verification=Verification(
                inputs=len(checks.inputs),
                float64_relative=found.float64_relative,
                native_relative=native.relative,
                native_max_abs=native.absolute,
                note=_PROOF if found.folded else "",
            ),
            notes=notes,
        )
        stage.result(_summary(result))
    journal.note(notes)
    settings = run_settings(spec)
    if isinstance(module, TrainedOnnx):
        name, runtime = row_names.PYTORCH, "PyTorch"
        runner: Runner = EagerRunner(module, device=settings.device)
    else:
        name, runtime = row_names.ORIGINAL_ONNX, "ONNX Runtime"
        runner = ONNX_RUNTIME.open(module.path, settings)
    original = Artifact(
        name=name,
        title=f"{runtime} (original)",
        runner=runner,
        parameters=parameters,
        batchnorms=before,
        bytes=loaded.model.bytes,
    )
    return Folded(result, (journal.keep(original),))


def export_onnx(
    loaded: Loaded,
    folded: Folded,
    directory: Path,
    metadata: Mapping[str, str],
    spec: BuildSpec,
    journal: Journal,
) -> Exported:
    """Write the folded graph as the fp32 ONNX of the build.

    Raises:
        ExportError: the graph is not valid ONNX.
        UsageError: the file would replace the given one.
    """
    path = ONNX.path(directory, loaded.name)
    with journal.running("export", ONNX.label) as stage:
        size = write_folded(loaded, folded, path, metadata)
        graph = _graph_of(folded)
        given = quantised_as(graph)
        stage.result(f"{ONNX.label} (opset {graph.opset_imports['']})")
    artifact = journal.keep(
        Artifact(
            name=ONNX.row,
            title=ONNX.title,
            runner=ONNX_RUNTIME.open(path, run_settings(spec)),
            path=path,
            parameters=folded.result.parameters_after,
            batchnorms=folded.result.batchnorms_after,
            bytes=size,
            notes=() if given is None else (f"{given.value} from the file: its scales are kept",),
        )
    )
    program = Artifact(PROGRAM.row, PROGRAM.title, not_measured=_NO_PROGRAM)
    return Exported(artifact, program, (artifact,), given)


def write_folded(
    loaded: Loaded, folded: Folded, path: Path, metadata: Mapping[str, str] | None = None
) -> int:
    """Write the folded graph to ``path``, atomically; returns the bytes.

    The metadata of the given file stays: runtimes of detectors read class names from it.

    Raises:
        ExportError: the graph is not valid ONNX.
        UsageError: ``path`` is the given file.
    """
    source = Path(loaded.model.source)
    if path.exists() and source.exists() and path.samefile(source):
        raise UsageError(
            f"{path} is the model itself, which the folded one would replace.",
            hint="Choose another directory or name with --output.",
        )
    graph = _graph_of(folded)
    onnx_graph.set_metadata(graph, metadata or {})
    with staged(path) as temporary:
        write_model(graph, temporary)
        check_file(temporary)
        return onnx_bytes(temporary)


def _graph_of(folded: Folded) -> ir.Model:
    module = folded.result.model
    assert isinstance(module, GraphModule)
    return module.graph


def _standard_form(
    path: Path, checks: Checks, inputs: InputSpec
) -> tuple[ir.Model, tuple[str, ...], Checks]:
    """The graph in float32 and in the opset of our exports, if it can be raised; notes; checks.

    Branches that the shapes decide are gone.

    Q/DQ nodes are brought into TensorRT's form, and the checks for them round no activation.

    Raises:
        FoldError: the graph cannot be brought into float32, or its Q/DQ nodes not into that form.
    """
    raised = decide = True
    notes: tuple[str, ...] = ()
    while True:
        graph, gone = load_graph(path), 0
        try:
            repair(graph)
            if decide:
                graph, gone = with_branches_decided(graph, inputs)
            given = graph.opset_imports.get("", OPSET)
            if raised:
                graph = raise_opset(graph, OPSET)
            metadata = dict(graph.metadata_props)
            prepare(graph)
            onnx_graph.strip(graph)
            graph.metadata_props.update(metadata)
            replaced = in_single_precision(graph)
            drop_identities(graph)
            if cast_first(graph) or replaced or gone or given < OPSET:
                checks.compare(graph)
        except Exception as error:
            if gone:  # a size that the file records may be wrong
                decide = False
                continue
            reason = error.message if isinstance(error, DeployfoldError) else first_line(error)
            if not raised or given >= OPSET:
                raise FoldError(
                    f"{path.name} cannot be prepared: {reason}",
                    hint="Export it again, in float32 and with a newer opset.",
                ) from error
            notes = (f"{path.name} stays in opset {given}; raised to {OPSET}: {reason}",)
            raised = False
            continue
        if gone:
            notes += (
                f"The shapes of the inputs decide {gone} of the branches (If) of {path.name}, "
                "which are gone: the built files take these shapes alone.",
            )
        if replaced:
            names = " and ".join(dtype.name.lower() for dtype in replaced)
            notes += (f"The {names} tensors are computed in float32; --fp16 builds in float16.",)
        try:
            if (given := quantised_as(graph)) is not None:
                clip_values(graph)
                checks = checks.without_rounding(graph)
                take_over(graph)
                checks.compare(graph)
                notes += (f"{path.name} holds {given.value} Q/DQ nodes; their scales are kept.",)
        except ExportError as error:
            raise FoldError(
                f"{path.name} cannot be taken: {error.message}", hint=error.hint
            ) from error
        return graph, notes, checks


def _summary(result: FoldResult) -> str:
    gone = result.batchnorms_before - result.batchnorms_after
    text = f"{gone} of {result.batchnorms_before} BatchNormalization nodes folded"
    exact = result.verification.float64_relative
    return text + (f", same function to {exact:.0e} in float64" if gone else "")


def _parameters(graph: ir.Model) -> int:
    """The scalars in the weights: floats and quantised ones.

    Running statistics, scales and zero points are not among them.
    """
    floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
    others, codes = set(), set()
    for node in ir.traversal.RecursiveGraphIterator(graph.graph):
        if node.op_type == _BATCH_NORM:
            others.update(node.inputs[3:5])
        elif node.op_type in (QUANTISE, DEQUANTISE):
            codes.add(node.inputs[0])
            others.update(node.inputs[1:])
    return sum(
        int(np.prod(value.const_value.shape.numpy()))
        for one in graph.graphs()
        for value in one.initializers.values()
        if value.const_value is not None
        and (value.const_value.dtype in floats or value in codes)
        and value not in others
    )
