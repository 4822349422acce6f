"""The stage that writes every export format. Only the ONNX is required."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deployfold import __version__
from deployfold.config.build_spec import BuildSpec
from deployfold.errors import ExportError
from deployfold.events import StageProgress
from deployfold.exporting import EXPORTERS, ExportJob, OnnxArtifact, check_repeatable
from deployfold.exporting.onnx import ONNX
from deployfold.exporting.program import PROGRAM
from deployfold.folding import FoldResult
from deployfold.loading import LoadedModel
from deployfold.runtimes.device import CPU

from .artifact import Artifact
from .journal import Journal
from .load import Loaded
from .results import Exported, Folded
from .settings import run_settings


def export(
    loaded: Loaded, folded: Folded, directory: Path, spec: BuildSpec, journal: Journal
) -> Exported:
    """Write every format. If a format fails, its row has the reason; the ONNX must not fail.

    Raises:
        ExportError: two runs of the model differ, or the ONNX cannot be exported.
    """
    metadata = _metadata(loaded.model, folded.result)
    if loaded.model.in_onnx:
        from .onnx_source import export_onnx

        return export_onnx(loaded, folded, directory, metadata, spec, journal)
    result, settings = folded.result, run_settings(spec)
    base = Artifact("", "", parameters=result.parameters_after, batchnorms=result.batchnorms_after)
    artifacts = {}
    operators = None
    exporters = [one for one in EXPORTERS if one.option is None or getattr(spec, one.option)]
    with journal.running("export", exporters[0].label) as stage:
        job = ExportJob(
            result.model,
            loaded.example,
            loaded.inputs,
            script=spec.script,
            metadata=metadata,
            timeout=spec.timeout,
            device=settings.device or CPU,
            emit=journal.emit,
            outputs=check_repeatable(result.model, loaded.example),
        )
        for exporter in exporters:
            journal.emit(StageProgress("export", exporter.label))
            artifact = replace(base, name=exporter.row, title=exporter.title)
            path = exporter.path(directory, loaded.name)
            try:
                written = exporter.export(job, path)
            except ExportError as error:
                if exporter.required:
                    raise
                artifact = replace(artifact, not_measured=f"not exported: {error.message}")
                artifacts[exporter.key] = journal.keep(artifact)
                continue
            stage.child_peak = max(stage.child_peak, written.peak_bytes or 0)
            stage.result(exporter.label + (f" ({written.detail})" if written.detail else ""))
            artifact = replace(
                artifact,
                path=path,
                runner=exporter.runtime.open(path, settings),
                bytes=written.bytes,
                notes=written.row_notes,
                fixed_batch=written.fixed_batch,
            )
            if isinstance(written, OnnxArtifact):
                operators = written.operators
            if written.batchnorms is not None:
                artifact = replace(artifact, batchnorms=written.batchnorms)
            artifacts[exporter.key] = journal.keep(artifact)
    return Exported(
        artifacts[ONNX.key],
        artifacts[PROGRAM.key],
        tuple(artifacts.values()),
        operators=operators,
    )


def _metadata(model: LoadedModel, result: FoldResult) -> dict[str, str]:
    """Properties of the ONNX that describe its origin."""
    folded = result.batchnorms_before - result.batchnorms_after
    metadata = {
        "deployfold.version": __version__,
        "deployfold.folded": f"{folded} of {result.batchnorms_before} BatchNorm layers",
    }
    if model.sha256:
        metadata["deployfold.source_sha256"] = model.sha256
    return metadata
