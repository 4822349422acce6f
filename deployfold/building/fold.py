"""The stage that folds BatchNorm, proves the fold, and writes the folded module."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import torch

from deployfold.config import row_names
from deployfold.config.build_spec import BuildSpec
from deployfold.errors import ExportError
from deployfold.folding import FoldResult
from deployfold.folding import fold as fold_model
from deployfold.folding.drift import drift_note, drifted
from deployfold.folding.frames import Frames, absorb
from deployfold.folding.moments import LEAST_SAMPLES
from deployfold.reporting.text import parameters_changed
from deployfold.runtimes.eager import EagerRunner
from deployfold.runtimes.torch_variants import variants_on
from deployfold.util.files import atomic_path
from deployfold.util.hooks import without_local_hooks
from deployfold.util.torch_files import save_scripted, torch_file

from .artifact import Artifact
from .journal import Journal
from .load import Loaded
from .results import Folded
from .rows import Inputs
from .settings import run_settings

_DRIFT_INPUTS = 16
"""Inferences whose statistics are compared with those of training."""


def fold(
    loaded: Loaded, spec: BuildSpec, journal: Journal, path: Path | None, *, must_save: bool = False
) -> Folded:
    """Fold the model, and write the folded module to ``path`` unless it is ``None``.

    An ONNX is folded in its graph, and not written here: its export is the folded file.

    Args:
        must_save: the file is all that is asked for. Otherwise a module that cannot be pickled,
            such as one with a lambda among its attributes, gets a note and no file.

    Raises:
        FoldError: the model cannot be traced, or folding was not proved.
        ExportError: the folded module cannot be pickled, and ``must_save``.
    """
    if loaded.model.in_onnx:
        from .onnx_source import fold_onnx  # imports onnx

        return fold_onnx(loaded, spec, journal)
    model, settings = loaded.model, run_settings(spec)
    with journal.running("fold", "tracing, folding and verifying") as stage:
        result = _folded(loaded, spec)
        stage.result(_summary(result))
        size, left_out = None, 0
        try:
            if path is not None:
                size, left_out = _save_module(result.model, path)
        except ExportError as error:
            if must_save or path is None:
                raise
            reason = error.message.rstrip(".")
            journal.note((f"{path.name} is not written. {reason}.",), level="warning")
            path = None
    journal.note(result.notes)
    if spec.input_data is not None:
        _check_drift(loaded, journal)
    if left_out and path is not None:
        journal.note(
            (
                f"{path.name} is without {left_out} hooks that a library registers while the model "
                "runs: a file cannot hold them.",
            )
        )
    original = journal.keep(
        Artifact(
            name=row_names.PYTORCH,
            title="PyTorch (original)",
            runner=EagerRunner(model.module, device=settings.device),
            parameters=result.parameters_before,
            batchnorms=result.batchnorms_before,
            bytes=model.weight_bytes,
        )
    )
    eager = journal.keep(
        Artifact(
            name=row_names.FOLDED,
            title="PyTorch, folded",
            runner=EagerRunner(result.model, title="The folded model", device=settings.device),
            path=path,
            parameters=result.parameters_after,
            batchnorms=result.batchnorms_after,
            bytes=size,
        )
    )
    asked = variants_on(settings.device, fp16=spec.torch_fp16, compiled=spec.torch_compile)
    variants = eager.variants(asked if spec.measure else (), result.model, settings.device)
    return Folded(result, (original, eager, *map(journal.keep, variants)))


def _folded(loaded: Loaded, spec: BuildSpec) -> FoldResult:
    """The model with its BatchNorms, and the normalisation of raw frames, folded."""
    result = fold_model(
        loaded.model.module,
        loaded.example,
        reparam=spec.folding.reparam,
        norm_affine=spec.folding.norm_affine,
        keep_parametrizations=spec.folding.keep_parametrizations,
        more_inputs=loaded.fold_samples[1:],
        check_inputs=_other_sizes(loaded),
    )
    if not isinstance(result.model, Frames):
        return result
    absorbed = absorb(result.model, loaded.example)
    return replace(result, model=absorbed.model, notes=(*result.notes, absorbed.note))


def _summary(result: FoldResult) -> str:
    """The result of the stage in one phrase."""
    folded = result.batchnorms_before - result.batchnorms_after
    changed = parameters_changed(result.parameters_before, result.parameters_after)
    exact = result.verification.float64_relative
    proof = "" if exact is None else f", same function to {exact:.0e} in float64"
    return f"{folded} of {result.batchnorms_before} BatchNorm layers folded, {changed}{proof}"


def _check_drift(loaded: Loaded, journal: Journal) -> None:
    """Warn where real inputs are far from the statistics of the BatchNorms."""
    inputs = loaded.samples[:_DRIFT_INPUTS]
    if len(inputs) * loaded.inputs.batch < LEAST_SAMPLES:
        return
    found = drifted(loaded.model.module, inputs)
    if found:
        journal.note([drift_note(found)], level="warning")


def _other_sizes(loaded: Loaded) -> tuple[Inputs, ...]:
    """Inputs of other sizes, if an axis other than the batch is dynamic.

    Folding itself varies the batch size.
    """
    if all(axis == 0 for axes in loaded.inputs.dynamic_axes for axis in axes):
        return ()
    from deployfold.exporting.dynamic import checking_inputs  # imports every exporter

    return checking_inputs(loaded.example, loaded.inputs)[1:]


def _save_module(module: torch.nn.Module, path: Path) -> tuple[int, int]:
    """Pickle the module, or write its TorchScript.

    Returns:
        The size in bytes, and the number of hooks that were left out.
    """
    with atomic_path(path) as temporary, without_local_hooks(module) as left_out:
        try:
            if isinstance(module, torch.jit.ScriptModule):
                save_scripted(module, temporary)
            else:
                with torch_file(temporary) as file:
                    torch.save(module, file)
        except (pickle.PicklingError, AttributeError, TypeError, ImportError) as error:
            raise ExportError(
                f"The folded model cannot be pickled: {error}",
                hint="Define its classes and functions at the top level of an importable module; "
                "deployfold export needs no pickle.",
            ) from error
        return temporary.stat().st_size, left_out
