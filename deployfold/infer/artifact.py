"""Runs one inference of an artifact in its runtime, and returns the outputs.

Only the runtimes of torch's file formats import torch, because a Jetson may have TensorRT without
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from deployfold.config.inputs import InputSpec, random_origin
from deployfold.errors import MeasureError, UsageError
from deployfold.infer.inputs import Given, random_array, values_for
from deployfold.infer.outputs import RunInput, RunRecord, describe
from deployfold.reporting.row import CudaGraph
from deployfold.runtimes import EAGER, runtime_of
from deployfold.runtimes.failures import NoDevice
from deployfold.runtimes.protocol import FileRunner, Inputs
from deployfold.runtimes.settings import RunSettings
from deployfold.util.arrays import Array


def run_artifact(
    path: Path, given: Sequence[Given] = (), *, settings: RunSettings | None = None, seed: int = 0
) -> tuple[RunRecord, dict[str, Array]]:
    """Run an artifact once; the description of the run, and the outputs by name.

    Args:
        path: a file of any runtime. A file that matches no runtime is loaded as a checkpoint.
        given: inputs with values or shapes. Other inputs get seeded random values in the shapes
            that the artifact lists.
        seed: seed of the random values.

    Raises:
        UsageError: the artifact has no such input, or a shape is not known.
        LoadError: the file cannot be read, or could run code.
        MeasureError: the artifact cannot run here, or the inference failed.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", hint="deployfold build makes artifacts.")
    settings = settings or RunSettings()
    runtime = runtime_of(path) or EAGER
    if settings.provider is not None and not runtime.takes_provider:
        raise UsageError(f"{path.name} is not an ONNX, so --provider has no effect.")
    with closing(runtime.open(path, settings)) as runner:
        asked = InputSpec(tuple(one.spec for one in given)) if given else None
        spec = runner.inputs(asked)
        values, data = _values(spec, given, seed, torch_tensors=runtime.needs_torch)
        try:
            runner.load()
        except NoDevice as error:
            raise MeasureError(
                f"{path.name} was built for {error.built_for}, but this machine has no such GPU.",
                hint="Run it on a machine with the GPU, or run the ONNX that it was built from.",
            ) from error
        return _result(path, runner, spec, values, data)


def _result(
    path: Path, runner: FileRunner, spec: InputSpec, values: Inputs, data: Sequence[str]
) -> tuple[RunRecord, dict[str, Array]]:
    try:
        arrays = runner.run(values)
    except MeasureError as error:
        # The libraries' messages about wrong shapes rarely name the input.
        hint = error.hint or f"The inputs were {spec}."
        raise MeasureError(error.message, hint=hint) from error
    named = dict(zip(_output_names(runner, len(arrays)), arrays, strict=True))
    graph = getattr(runner, "cuda_graph", None)
    record = RunRecord(
        artifact=str(path),
        runtime=runner.title,
        placement=getattr(runner, "placement", None),
        cuda_graph=None if graph is None else CudaGraph.model_validate(graph),
        inputs=tuple(
            RunInput(name=name, shape=tensor.shape, dtype=tensor.dtype, data=origin)
            for name, tensor, origin in zip(spec.names, spec.tensors, data, strict=True)
        ),
        outputs=tuple(
            describe(name, array, alone=len(named) == 1) for name, array in named.items()
        ),
    )
    return record, named


def _output_names(runner: FileRunner, count: int) -> Sequence[str]:
    names: Sequence[str] | None = getattr(runner, "output_names", None)
    if names is not None:
        return names
    return ("output",) if count == 1 else [f"output_{index}" for index in range(count)]


def _values(
    inputs: InputSpec, given: Sequence[Given], seed: int, *, torch_tensors: bool
) -> tuple[Inputs, list[str]]:
    """The values of every input, in the model's order, and the origin of each.

    Without ``torch_tensors`` the values are NumPy arrays. Given floats get the precision of the
    artifact's input only as tensors; the other runtimes convert them.
    """
    chosen = values_for(inputs, given)
    arrays = [None if one is None else one.values for one in chosen]
    data = [
        random_origin(seed) if one is None or one.values is None else one.origin for one in chosen
    ]
    if not torch_tensors:
        import numpy as np

        rng = np.random.default_rng(seed)
        return [
            random_array(tensor, rng) if array is None else array
            for tensor, array in zip(inputs.tensors, arrays, strict=True)
        ], data
    import torch

    from deployfold.loading import make_inputs

    tensors = list(make_inputs(inputs, seed=seed))
    for index, array in enumerate(arrays):
        if array is not None:
            value, drawn = torch.tensor(array), tensors[index]
            both_float = value.is_floating_point() and drawn.is_floating_point()
            tensors[index] = value.to(drawn.dtype) if both_float else value
    return tensors, data
