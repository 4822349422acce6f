"""What each stage of a build does, between the packages that do the work and the report.

A stage that fails in a way that leaves the others useful costs one row; anything else raises.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from deployfold.building.artifact import Artifact
from deployfold.building.rows import Extras, interrupted_rows, measure_rows
from deployfold.building.state import Inputs, Run
from deployfold.data.calibration import load_calibration
from deployfold.data.real_inputs import load_samples
from deployfold.errors import ExportError
from deployfold.exporting.dynamic import checking_inputs
from deployfold.folding import fold
from deployfold.loading import in_single_precision, load_model, make_inputs, resolve_inputs
from deployfold.measuring.results import MeasurementInterrupted
from deployfold.runtimes.torch_and_onnxruntime import EagerRunner
from deployfold.util.files import atomic_path
from deployfold.util.torch_files import save_scripted, torch_file

FOLD_SAMPLES = 8
"""Real inputs that folding traces and is verified on: each costs it four forward passes."""


def load_stage(run: Run, *, single: bool) -> Inputs:
    """Load the model, and make the inputs that every later stage runs on.

    Args:
        single: bfloat16 and float64 become float32, as what is built from the model needs it.
    """
    spec = run.spec
    with run.running("load", spec.source) as say:
        loaded = load_model(
            spec.source, arch=spec.arch, allow_globals=spec.allow_globals, trust=spec.trust
        )
        requested = spec.inputs
        if single:
            loaded, requested = in_single_precision(loaded, requested)
        run.inputs = resolve_inputs(loaded, requested, spec.dynamic)
        run.loaded = loaded
        run.directory = spec.output or Path("build") / loaded.name
        run.samples, notes = _samples(run, loaded.arch)
        if spec.calibration is not None:
            data = load_calibration(spec.calibration, run.inputs, arch=loaded.arch, seed=spec.seed)
            run.calibration = data
            notes += (*data.notes, *data.skipped)
        say(f"{loaded.arch or type(loaded.module).__name__}, {run.inputs}")
    run.note((*loaded.notes, *dict.fromkeys(notes)))
    return run.samples[0]


def _samples(run: Run, arch: str | None) -> tuple[tuple[Inputs, ...], tuple[str, ...]]:
    """The inputs to run on, and what is to be said of them."""
    spec, inputs = run.spec, run.inputs
    assert inputs is not None
    if spec.input_data is None:
        run.input_data = f"seeded random (seed {spec.seed})"
        return (make_inputs(inputs, seed=spec.seed),), ()
    data = load_samples(spec.input_data, inputs, arch=arch)
    run.input_data, run.labels = data.origin, data.labels
    return data.tensors(inputs), data.notes


def fold_stage(run: Run, inputs: Inputs, path: Path | None) -> None:
    """Fold, and write the folded module to ``path`` if that is given."""
    loaded = run.loaded
    assert loaded is not None
    with run.running("fold", "tracing, folding and verifying") as say:
        more = run.samples[1:FOLD_SAMPLES]
        result = fold(
            loaded.module,
            inputs,
            reparam=run.spec.reparam,
            more_inputs=more,
            check_inputs=_other_sizes(run, inputs),
        )
        run.folded = result
        gone = result.batchnorms_before - result.batchnorms_after
        fewer = result.parameters_before - result.parameters_after
        exact = result.verification.float64_relative
        proof = "" if exact is None else f", same function to {exact:.0e} in float64"
        say(
            f"{gone} of {result.batchnorms_before} BatchNorm layers folded, "
            f"{fewer:,} parameters fewer{proof}"
        )
        size = None if path is None else _save_module(result.model, path)
    run.note(result.notes)
    run.artifacts += [
        Artifact(
            "pytorch",
            "PyTorch (original)",
            EagerRunner(loaded.module),
            parameters=result.parameters_before,
            batchnorms=result.batchnorms_before,
            bytes=loaded.bytes,
        ),
        Artifact(
            "folded",
            "PyTorch, folded",
            EagerRunner(result.model, title="The folded model"),
            path,
            result.parameters_after,
            result.batchnorms_after,
            size,
        ),
    ]


def _other_sizes(run: Run, inputs: Inputs) -> tuple[Inputs, ...]:
    """Inputs of another size where an axis beside the batch, which folding varies, is dynamic."""
    shapes = run.inputs
    assert shapes is not None
    if all(axis == 0 for axes in shapes.dynamic_axes for axis in axes):
        return ()
    return checking_inputs(inputs, shapes)[1:]


def _save_module(module: torch.nn.Module, path: Path) -> int:
    """Pickle the module, or write its TorchScript; returns the bytes."""
    with atomic_path(path) as temporary:
        try:
            if isinstance(module, torch.jit.ScriptModule):
                save_scripted(module, temporary)
            else:
                with torch_file(temporary) as file:
                    torch.save(module, file)
        except (pickle.PicklingError, AttributeError, TypeError, ImportError) as error:
            raise ExportError(
                f"The folded model cannot be pickled: {error}",
                hint="Define its classes at the top level of an importable module.",
            ) from error
        return temporary.stat().st_size


def measure_stage(run: Run, inputs: Inputs) -> None:
    """Run every row; what was measured before Ctrl-C stays in ``run.rows``."""
    shapes, spec = run.inputs, run.spec
    assert shapes is not None
    extras = Extras(
        batches=spec.batches,
        make_inputs=lambda batch: make_inputs(shapes.with_batch(batch), seed=spec.seed),
        feeds=run.samples if spec.input_data else (),
        labels=run.labels,
        cold_start=spec.cold_start,
    )
    with run.running("measure", "loading") as say:
        try:
            run.rows = measure_rows(run.artifacts, inputs, spec, extras=extras, emit=run.emit)
        except MeasurementInterrupted as stop:
            run.rows = interrupted_rows(run.artifacts, stop)
            raise
        measured = sum(row.latency is not None for row in run.rows)
        say(f"{measured} of {len(run.rows)} rows measured")
