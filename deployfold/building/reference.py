"""The stage of a build that leaves what any device needs to check and to feed the model."""

from __future__ import annotations

from deployfold.building.state import Inputs, Run
from deployfold.config.quantization import PREPROCESS_JSON, PreprocessSpec
from deployfold.data.preprocess.resolve import resolve_preprocess
from deployfold.data.preprocess.steps import write_preprocess
from deployfold.errors import UsageError
from deployfold.finish.reference import REFERENCE_NPZ, write_reference
from deployfold.folding.proof.compare import run_model
from deployfold.runtimes.protocol import to_array


def device_stage(run: Run, inputs: Inputs) -> None:
    """Write the original's outputs for ``inputs``, and how an image becomes an input.

    Raises:
        UsageError: preprocessing was asked for that the inputs do not allow.
    """
    assert run.loaded is not None
    write_reference(
        run.directory / REFERENCE_NPZ,
        [to_array(value) for value in inputs],
        [to_array(output) for output in run_model(run.loaded.module, inputs)],
    )
    _write_preprocess(run)


def _write_preprocess(run: Run) -> None:
    assert run.loaded is not None
    assert run.inputs is not None
    data = run.spec.calibration or run.spec.input_data
    wanted = run.spec.preprocess if data is None else data.preprocess
    try:
        steps = resolve_preprocess(wanted, run.inputs, run.loaded.arch)
    except UsageError:
        if wanted != PreprocessSpec():
            raise
        (run.directory / PREPROCESS_JSON).unlink(missing_ok=True)  # its inputs are no images
        return
    write_preprocess(steps, run.directory)
