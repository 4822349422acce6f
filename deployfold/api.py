"""The Python API: the same stages as the command line, for use in code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from deployfold.building.pipeline import build as _build
from deployfold.config.inputs import InputSpec, TensorSpec
from deployfold.config.make_spec import spec_of_keywords
from deployfold.config.optimization_profiles import DynamicBatch
from deployfold.config.precision import Precision
from deployfold.reporting.report import Report

from .errors import UsageError
from .events import Emit, ignore
from .exporting import EXPORTERS, ExportedFile, ExportJob, check_repeatable, in_evaluation_mode
from .folding import fold
from .loading import load_model

__all__ = ["build", "export", "fold", "load"]


def load(
    source: str | Path,
    *,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    weights: str | None = None,
    allow_globals: Sequence[str] = (),
    trust: bool = False,
) -> torch.nn.Module:
    """Load a model, in evaluation mode on the CPU.

    Args:
        source: a pickled module, state dict, ``.safetensors``, TorchScript archive or ``.pt2``
            file, a directory that Hugging Face's libraries wrote, ``torchvision:NAME`` /
            ``timm:NAME``, or ``package.module:factory``.
        arch: the architecture of a state dict: ``torchvision:NAME``, ``timm:NAME`` or
            ``package.module:factory``; guessed from the file name and its keys if ``None``.
        arch_args: keyword arguments of the architecture's builder, such as ``num_classes``.
        weights: the key or prefix of the weights to take from a file with several sets, such as
            ``ema``.
        allow_globals: further classes that a pickled module may use, besides those of known
            packages; ``package.*`` allows all modules of a package.
        trust: unpickle in full, which lets the file run any code.

    Returns:
        The model.

    Raises:
        LoadError: the file cannot be read, or reading it would run code that was not allowed.
        UsageError: ``source``, ``arch`` or ``weights`` names something unknown.
    """
    loaded = load_model(
        str(source),
        arch=arch,
        arch_options=arch_args,
        weights=weights,
        allow_globals=tuple(allow_globals),
        trust=trust,
        factories=True,
    )
    return loaded.module


def export(
    model: torch.nn.Module,
    example_inputs: tuple[torch.Tensor, ...],
    directory: str | Path,
    *,
    name: str = "model",
    dynamic_batch: tuple[int, int, int] | None = None,
    formats: Sequence[str] = ("torchscript", "program", "onnx"),
    metadata: Mapping[str, str] | None = None,
) -> dict[str, ExportedFile]:
    """Export ``model`` and compare each file with it.

    Args:
        model: it is never changed. Of a model in training mode, the evaluation mode is exported.
        example_inputs: one tensor for each positional argument of the forward.
        directory: the folder for the files, one per format, such as ``NAME.onnx``.
        name: the file name without suffix.
        dynamic_batch: min, opt and max batch size; ``None`` fixes the batch size to that of
            ``example_inputs``.
        formats: the formats to write.
        metadata: properties to write into the ONNX.

    Returns:
        The exported files, by format.

    Raises:
        ExportError: two runs of the model differ, a format cannot be written, or a file's outputs
            differ from the model's.
        UsageError: a format is unknown.
    """
    unknown = set(formats) - {exporter.key for exporter in EXPORTERS}
    if unknown:
        raise UsageError(f"{', '.join(sorted(unknown))} is not an export format.")
    module, notes = in_evaluation_mode(model)
    outputs = check_repeatable(module, example_inputs)
    spec = InputSpec(
        tuple(
            TensorSpec(tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
            for tensor in example_inputs
        ),
        origin="example_inputs",
    )
    if dynamic_batch is not None:
        spec = spec.with_profiles((DynamicBatch(*dynamic_batch),))
    job = ExportJob(module, example_inputs, spec, metadata=metadata or {}, outputs=outputs)
    files = {
        exporter.key: exporter.export(job, exporter.path(Path(directory), name))
        for exporter in EXPORTERS
        if exporter.key in formats
    }
    return {key: replace(file, notes=(*notes, *file.notes)) for key, file in files.items()}


def build(source: str | Path, *, emit: Emit = ignore, **options: Any) -> Report:
    """Fold, export, compile, measure and compare a model, as ``deployfold build`` does.

    Args:
        source: as for :func:`load`.
        emit: receives the events of the build.
        options: the flags of ``deployfold build`` (``fp16=True``, ``calib="pictures"``,
            ``max_seconds=5.0``), or fields of :class:`deployfold.config.build_spec.BuildSpec`
            (``engine=False``, ``guard=GuardSpec(min_sqnr_db=25.0)``). ``dynamic_batch`` may also be
            one tuple of min, opt and max. ``calibration`` alone builds in INT8.

    Returns:
        The report. Its status is «failed» if a precision was refused or a limit was missed; the
        rest of the report is then complete.

    Raises:
        UsageError: an option is unknown, or its value is malformed.
        DeployfoldError: the subclass names the stage that failed.
    """
    batch = options.get("dynamic_batch")
    if isinstance(batch, tuple) and all(isinstance(size, int) for size in batch):
        options["dynamic_batch"] = (DynamicBatch(*batch),) if batch else ()
    precisions = options.get("precisions") or ()
    if not precisions and options.get("calibration") is not None:
        precisions = (Precision.FP16,) * bool(options.get("fp16")) + (Precision.INT8,)
    if precisions:
        options["precisions"] = tuple(precisions)
    spec = spec_of_keywords(str(source), {k: v for k, v in options.items() if v is not None})
    report, _ = _build(spec, emit=emit)
    return report
