"""The stage of a build that writes TorchScript, ``.pt2`` and ONNX; only the ONNX is required."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deployfold import __version__
from deployfold.building.artifact import Artifact
from deployfold.building.state import Inputs, Run
from deployfold.errors import ExportError
from deployfold.events import StageProgress
from deployfold.exporting import check_repeatable, export_onnx, export_program, export_torchscript
from deployfold.folding import FoldResult
from deployfold.loading import LoadedModel
from deployfold.measuring.environment import default_threads
from deployfold.runtimes.torch_and_onnxruntime import (
    OnnxRuntimeRunner,
    ProgramRunner,
    TorchScriptRunner,
)


def export_stage(run: Run, inputs: Inputs) -> Path:
    """Add a row for each format; returns the ONNX.

    Raises:
        ExportError: the model does not give the same twice, or there is no ONNX. Without one of
            the other files, its row says why.
    """
    loaded, spec, folded = run.loaded, run.inputs, run.folded
    assert loaded is not None
    assert spec is not None
    assert folded is not None
    base = Artifact("", "", parameters=folded.parameters_after, batchnorms=folded.batchnorms_after)
    module = folded.model
    program, program_error = None, None
    with run.running("export", "TorchScript") as say:
        check_repeatable(module, inputs)
        path = run.directory / f"{run.name}.ts.pt"
        draft = replace(base, name="torchscript", title="TorchScript")
        try:
            script = export_torchscript(module, inputs, path, script=run.spec.script, spec=spec)
            draft = replace(
                draft, path=path, runner=TorchScriptRunner(path), bytes=script.bytes,
                notes=script.notes,
            )  # fmt: skip
            say("TorchScript")
        except ExportError as error:
            draft = replace(draft, not_measured=f"not exported: {error.message}")
        run.artifacts.append(draft)

        run.emit(StageProgress("export", "torch.export"))
        path = run.directory / f"{run.name}.pt2"
        draft = replace(base, name="program", title="torch.export (.pt2)")
        try:
            program, exported = export_program(module, inputs, path, spec=spec)
            draft = replace(draft, path=path, runner=ProgramRunner(path), bytes=exported.bytes)
            say(".pt2")
        except ExportError as error:
            program_error = error.message
            draft = replace(draft, not_measured=f"not exported: {error.message}")
        run.artifacts.append(draft)

        run.emit(StageProgress("export", "ONNX"))
        path = run.directory / f"{run.name}.onnx"
        onnx = export_onnx(
            module,
            inputs,
            path,
            spec=spec,
            program=program,
            program_error=program_error,
            metadata=_metadata(loaded, folded),
        )
        say(f"ONNX (opset {onnx.opset}, {onnx.exporter} exporter)")
        notes = list(onnx.notes)
        if onnx.fallback_reason:
            notes.append(f"TorchScript-based ONNX exporter: {onnx.fallback_reason}")
        run.artifacts.append(
            replace(
                base,
                name="onnxruntime",
                title="ONNX Runtime",
                path=path,
                runner=OnnxRuntimeRunner(path, run.spec.threads or default_threads()),
                batchnorms=onnx.batchnorm_nodes,
                bytes=onnx.bytes,
                notes=tuple(notes),
            )
        )
    return path


def _metadata(loaded: LoadedModel, folded: FoldResult) -> dict[str, str]:
    metadata = {
        "deployfold.version": __version__,
        "deployfold.folded": f"{folded.batchnorms_before - folded.batchnorms_after} of "
        f"{folded.batchnorms_before} BatchNorm layers",
    }
    if loaded.sha256:
        metadata["deployfold.source_sha256"] = loaded.sha256
    return metadata
