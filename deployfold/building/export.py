"""The third stage: write TorchScript, ``.pt2`` and ONNX. Only the ONNX is required."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from deployfold import __version__
from deployfold.config.settings import BuildSpec
from deployfold.errors import ExportError
from deployfold.events import StageProgress
from deployfold.exporting import check_repeatable, export_onnx, export_program, export_torchscript
from deployfold.folding import FoldResult
from deployfold.loading import LoadedModel
from deployfold.measuring.environment import default_threads
from deployfold.runtimes import ONNX_RUNTIME, PROGRAM, TORCHSCRIPT, RunSettings

from .artifact import Artifact
from .fold import Folded
from .journal import Journal
from .load import Loaded


@dataclass(frozen=True, eq=False)
class Exported:
    """The exported formats of the folded model.

    Attributes:
        onnx: the fp32 ONNX, which everything behind is made from.
        program: the ``.pt2``; its ``path`` is ``None`` where ``torch.export`` failed.
        artifacts: all formats, in the order of the table.
    """

    onnx: Artifact
    program: Artifact
    artifacts: tuple[Artifact, ...]


def export(
    loaded: Loaded, folded: Folded, directory: Path, spec: BuildSpec, journal: Journal
) -> Exported:
    """Write every format; a format that fails costs its own row, except for the ONNX.

    Raises:
        ExportError: the model does not give the same twice, or there is no ONNX.
    """
    result, inputs = folded.result, loaded.inputs
    module, example = result.model, loaded.example
    base = Artifact("", "", parameters=result.parameters_after, batchnorms=result.batchnorms_after)
    settings = RunSettings(spec.threads or default_threads(), trust=True)  # our own files
    program, program_error = None, None
    with journal.running("export", "TorchScript") as stage:
        check_repeatable(module, example)
        path = directory / f"{loaded.name}{TORCHSCRIPT.suffix}"
        artifact = replace(base, name="torchscript", title="TorchScript")
        try:
            script = export_torchscript(module, example, path, script=spec.script, spec=inputs)
            artifact = replace(
                artifact,
                path=path,
                runner=TORCHSCRIPT.open(path, settings),
                bytes=script.bytes,
                notes=script.notes,
            )
            stage.result("TorchScript")
        except ExportError as error:
            artifact = replace(artifact, not_measured=f"not exported: {error.message}")
        torchscript = journal.keep(artifact)

        journal.emit(StageProgress("export", "torch.export"))
        path = directory / f"{loaded.name}{PROGRAM.suffix}"
        artifact = replace(base, name="program", title="torch.export (.pt2)")
        try:
            program, written = export_program(module, example, path, spec=inputs)
            runner = PROGRAM.open(path, settings)
            artifact = replace(artifact, path=path, runner=runner, bytes=written.bytes)
            stage.result(".pt2")
        except ExportError as error:
            program_error = error.message
            artifact = replace(artifact, not_measured=f"not exported: {error.message}")
        pt2 = journal.keep(artifact)

        journal.emit(StageProgress("export", "ONNX"))
        path = directory / f"{loaded.name}{ONNX_RUNTIME.suffix}"
        onnx = export_onnx(
            module,
            example,
            path,
            spec=inputs,
            program=program,
            program_error=program_error,
            metadata=_metadata(loaded.model, result),
        )
        stage.result(f"ONNX (opset {onnx.opset}, {onnx.exporter} exporter)")
        notes = list(onnx.notes)
        if onnx.fallback_reason:
            notes.append(f"TorchScript-based ONNX exporter: {onnx.fallback_reason}")
        fp32 = journal.keep(
            replace(
                base,
                name="onnxruntime",
                title="ONNX Runtime",
                path=path,
                runner=ONNX_RUNTIME.open(path, settings),
                batchnorms=onnx.batchnorm_nodes,
                bytes=onnx.bytes,
                notes=tuple(notes),
            )
        )
    return Exported(fp32, pt2, (torchscript, pt2, fp32))


def _metadata(model: LoadedModel, result: FoldResult) -> dict[str, str]:
    """Properties of the ONNX that tell where it came from."""
    folded = result.batchnorms_before - result.batchnorms_after
    metadata = {
        "deployfold.version": __version__,
        "deployfold.folded": f"{folded} of {result.batchnorms_before} BatchNorm layers",
    }
    if model.sha256:
        metadata["deployfold.source_sha256"] = model.sha256
    return metadata
