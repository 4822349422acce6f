"""Folding and writing a model that is an ONNX.

The given file in ONNX Runtime is the original that every row is compared with. The stages behind
the export are the same as for a model from PyTorch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from deployfold.config.build_spec import BuildSpec
from deployfold.errors import DeployfoldError, FoldError, UsageError, first_line
from deployfold.exporting import onnx_graph
from deployfold.exporting.dynamic import checking_inputs
from deployfold.exporting.exporters import OPSET
from deployfold.exporting.given import drop_identities, in_single_precision
from deployfold.exporting.onnx import ONNX, check_file
from deployfold.exporting.outputs import check_outputs
from deployfold.exporting.pixels import cast_first
from deployfold.exporting.program import PROGRAM
from deployfold.exporting.session import open_session, run_session
from deployfold.exporting.storage import SCRATCH_THRESHOLD, onnx_bytes, staged, write_model
from deployfold.folding import FoldResult, Verification
from deployfold.folding.onnx import GraphFold, fold_graph
from deployfold.folding.proof.compare import Difference, difference, forward_failed, run_model
from deployfold.loading.onnx_module import OnnxModule
from deployfold.lowering.graph import load as load_graph
from deployfold.lowering.graph import prepare
from deployfold.lowering.opset import raise_opset
from deployfold.runtimes import ONNX_RUNTIME

from .artifact import Artifact
from .journal import Journal
from .load import Loaded
from .results import Exported, Folded
from .settings import run_settings

_BATCH_NORM = "BatchNormalization"
_PROOF = "each fold was compared with the nodes that it replaced; no other node was changed"
_NO_PROGRAM = "an ONNX has no PyTorch model, from which a .pt2 is exported"


class GraphModule(torch.nn.Module):
    """A folded graph on its way from folding to the export; nothing calls it."""

    def __init__(self, graph: ir.Model) -> None:
        super().__init__()
        self.graph = graph


@dataclass(frozen=True, eq=False)
class _Checks:
    """What the given file computes, on which every step is compared with it.

    Attributes:
        names: of its inputs.
        inputs, outputs: of each inference.
    """

    names: tuple[str, ...]
    inputs: Sequence[tuple[Tensor, ...]]
    outputs: Sequence[list[Tensor]]

    def compare(self, graph: ir.Model) -> Difference:
        """Run ``graph`` in ONNX Runtime.

        Raises:
            ExportError: it does not run, or is another function.
        """
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "graph.onnx"
            write_model(graph, file, threshold=SCRATCH_THRESHOLD)
            return self.compare_file(file)

    def compare_file(self, file: Path) -> Difference:
        """The same of a file."""
        session = open_session(file)
        found = []
        for item, expected in zip(self.inputs, self.outputs, strict=True):
            arrays = [value.numpy() for value in item]
            results = run_session(session, dict(zip(self.names, arrays, strict=True)))
            check_outputs(expected, results, what="The graph")
            tensors = [torch.from_numpy(np.array(one)) for one in results]
            found.append(difference(expected, tensors))
        return Difference(max(one.absolute for one in found), max(one.relative for one in found))


def fold_onnx(loaded: Loaded, spec: BuildSpec, journal: Journal) -> Folded:
    """Fold the BatchNormalization nodes of the given ONNX.

    Raises:
        FoldError: the file does not run on the inputs, or cannot be brought into float32.
    """
    module = loaded.model.module
    assert isinstance(module, OnnxModule)
    with journal.running("fold", "reading, folding and verifying") as stage:
        checks = _checks(module, loaded)
        graph, notes = _standard_form(module.path, checks)
        before, parameters = onnx_graph.count_nodes(graph, _BATCH_NORM), _parameters(graph)
        found = fold_graph(graph)
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
            verification=_verification(found, native, len(checks.inputs)),
            notes=notes,
        )
        stage.result(_summary(result))
    journal.note(notes)
    original = Artifact(
        name="original",
        title="ONNX Runtime (original)",
        runner=ONNX_RUNTIME.open(module.path, run_settings(spec)),
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
        )
    )
    program = Artifact(PROGRAM.row, PROGRAM.title, not_measured=_NO_PROGRAM)
    return Exported(artifact, program, (artifact,))


def write_folded(
    loaded: Loaded, folded: Folded, path: Path, metadata: Mapping[str, str] | None = None
) -> int:
    """Write the folded graph to ``path``, atomically; returns the bytes.

    The metadata of the given file stays: runtimes of detectors read class names from it.

    Raises:
        ExportError: the graph is not valid ONNX.
        UsageError: ``path`` is the given file.
    """
    module = loaded.model.module
    assert isinstance(module, OnnxModule)
    if path.exists() and path.samefile(module.path):
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


def _checks(module: OnnxModule, loaded: Loaded) -> _Checks:
    inputs = [*loaded.fold_samples, *checking_inputs(loaded.example, loaded.inputs)[1:]]
    outputs = []
    for item in inputs:
        try:
            outputs.append(run_model(module, item, random=False))
        except FoldError:
            raise
        except Exception as error:  # ONNX Runtime's are of many kinds
            raise forward_failed(item, error) from error
    return _Checks(loaded.inputs.names, inputs, outputs)


def _standard_form(path: Path, checks: _Checks) -> tuple[ir.Model, tuple[str, ...]]:
    """The graph in float32 and in the opset of our exports, if it can be raised; and notes.

    Raises:
        FoldError: the graph cannot be brought into float32.
    """
    raised = True
    notes: tuple[str, ...] = ()
    while True:
        graph = load_graph(path)
        try:
            given = graph.opset_imports.get("", OPSET)
            if raised:
                graph = raise_opset(graph, OPSET)
            metadata = dict(graph.metadata_props)
            prepare(graph)
            drop_identities(graph)
            onnx_graph.strip(graph)
            graph.metadata_props.update(metadata)
            replaced = in_single_precision(graph)
            if cast_first(graph) or replaced or given < OPSET:
                checks.compare(graph)
        except Exception as error:
            reason = error.message if isinstance(error, DeployfoldError) else first_line(error)
            if not raised or given >= OPSET:
                raise FoldError(
                    f"{path.name} cannot be prepared: {reason}",
                    hint="Export it again, in float32 and with a newer opset.",
                ) from error
            notes = (f"{path.name} stays in opset {given}; raised to {OPSET}: {reason}",)
            raised = False
            continue
        if replaced:
            names = " and ".join(dtype.name.lower() for dtype in replaced)
            notes += (f"The {names} tensors are computed in float32; --fp16 builds in float16.",)
        return graph, notes


def _verification(found: GraphFold, native: Difference, inputs: int) -> Verification:
    return Verification(
        inputs=inputs,
        float64_relative=found.float64_relative,
        native_relative=native.relative,
        native_max_abs=native.absolute,
        original_relative=None,
        note=_PROOF if found.folded else "",
    )


def _summary(result: FoldResult) -> str:
    gone = result.batchnorms_before - result.batchnorms_after
    text = f"{gone} of {result.batchnorms_before} BatchNormalization nodes folded"
    exact = result.verification.float64_relative
    return text + (f", same function to {exact:.0e} in float64" if gone else "")


def _parameters(graph: ir.Model) -> int:
    """The scalars in the floating-point weights; running statistics are not among them."""
    floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
    statistics = {
        value
        for node in ir.traversal.RecursiveGraphIterator(graph.graph)
        if node.op_type == _BATCH_NORM
        for value in node.inputs[3:5]
    }
    return sum(
        int(np.prod(value.const_value.shape.numpy()))
        for one in graph.graphs()
        for value in one.initializers.values()
        if value.const_value is not None
        and value.const_value.dtype in floats
        and value not in statistics
    )
