"""Runs one inference of an artifact in its runtime, and returns the outputs.

Only the runtimes of torch's file formats import torch, because a Jetson may have TensorRT without
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from deployfold.config.inputs import InputSpec
from deployfold.errors import MeasureError, UsageError
from deployfold.infer.inputs import Given, random_array, values_for
from deployfold.infer.outputs import Result, describe
from deployfold.runtimes import EAGER, runtime_of
from deployfold.runtimes.failures import NoDevice
from deployfold.runtimes.protocol import FileRunner, Inputs
from deployfold.runtimes.settings import RunSettings


def run_artifact(
    path: Path,
    given: Sequence[Given] = (),
    *,
    settings: RunSettings | None = None,
    seed: int = 0,
) -> Result:
    """Run an artifact once.

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
        draw = _torch_values if runtime.needs_torch else _values
        values, data = draw(spec, given, seed)
        try:
            runner.load()
        except NoDevice as error:
            raise MeasureError(
                f"{path.name} was built for {error.built_for}, but this machine has no such GPU.",
                hint="Run it on a machine with the GPU, or run the ONNX that it was built from.",
            ) from error
        return _result(path, runner, spec, values, data)


def _result(
    path: Path, runner: FileRunner, spec: InputSpec, values: Inputs, data: tuple[str, ...]
) -> Result:
    try:
        arrays = runner.run(values)
    except MeasureError as error:
        # The libraries' messages about wrong shapes rarely name the input.
        hint = error.hint or f"The inputs were {spec}."
        raise MeasureError(error.message, hint=hint) from error
    named = dict(zip(_output_names(runner, len(arrays)), arrays, strict=True))
    return Result(
        str(path),
        runner.title,
        spec,
        data,
        tuple(describe(name, array, alone=len(named) == 1) for name, array in named.items()),
        named,
        placement=getattr(runner, "placement", None),
        graph=getattr(runner, "cuda_graph", None),
    )


def _output_names(runner: FileRunner, count: int) -> Sequence[str]:
    names: Sequence[str] | None = getattr(runner, "output_names", None)
    if names is not None:
        return names
    return ("output",) if count == 1 else [f"output_{index}" for index in range(count)]


def _values(inputs: InputSpec, given: Sequence[Given], seed: int) -> tuple[Inputs, tuple[str, ...]]:
    """A NumPy array for every input, in the model's order, and the origin of its values."""
    import numpy as np

    rng = np.random.default_rng(seed)
    values, data = [], []
    for tensor, one in zip(inputs.tensors, values_for(inputs, given), strict=True):
        if one is None or one.values is None:
            values.append(random_array(tensor, rng))
            data.append(f"seeded random (seed {seed})")
        else:
            values.append(one.values)
            data.append(one.origin)
    return values, tuple(data)


def _torch_values(
    inputs: InputSpec, given: Sequence[Given], seed: int
) -> tuple[Inputs, tuple[str, ...]]:
    """A torch tensor for every input; floats get the artifact's precision."""
    import numpy as np
    import torch

    from deployfold.loading import make_inputs

    values, data = [], []
    drawn = make_inputs(inputs, seed=seed)
    for tensor, one in zip(drawn, values_for(inputs, given), strict=True):
        if one is None or one.values is None:
            values.append(tensor)
            data.append(f"seeded random (seed {seed})")
            continue
        value = torch.from_numpy(np.array(one.values))
        if value.is_floating_point() and tensor.is_floating_point():
            value = value.to(tensor.dtype)
        values.append(value)
        data.append(one.origin)
    return values, tuple(data)
