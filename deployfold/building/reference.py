"""Writes the files that a device needs to check the model: reference outputs, preprocessing."""

from __future__ import annotations

from pathlib import Path

from deployfold.config.real_data import PREPROCESS_JSON, PreprocessSpec
from deployfold.data.preprocess.resolve import resolve_preprocess
from deployfold.data.preprocess.steps import write_preprocess
from deployfold.errors import UsageError
from deployfold.finish.reference import REFERENCE_NPZ, write_reference
from deployfold.folding.proof.compare import run_model
from deployfold.runtimes.tensors import to_array

from .load import Loaded
from .results import Folded


def write_device_files(loaded: Loaded, folded: Folded, directory: Path) -> None:
    """Write the outputs of the original model, and the preprocessing of images.

    The model runs only where the proof of its folding did not run it on the example.

    Raises:
        UsageError: the requested preprocessing does not fit the inputs.
    """
    known = folded.result.verification.outputs
    write_reference(
        directory / REFERENCE_NPZ,
        [to_array(value) for value in loaded.example],
        [to_array(one) for one in known or run_model(loaded.model.module, loaded.example)],
    )
    wanted = loaded.preprocess
    try:
        steps = resolve_preprocess(wanted, loaded.inputs, loaded.model.arch)
    except UsageError:
        if wanted != PreprocessSpec():
            raise
        (directory / PREPROCESS_JSON).unlink(missing_ok=True)  # the inputs are not images
        return
    write_preprocess(steps, directory)
