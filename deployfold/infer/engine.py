"""``deployfold run`` of an engine, with NumPy alone: a Jetson has no torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployfold.compiling.request import LIBRARY_TITLES
from deployfold.compiling.sidecar import built_for, input_tensors
from deployfold.config.spec import TensorSpec
from deployfold.errors import MeasureError, UsageError
from deployfold.infer.inputs import Given, filled, values_for
from deployfold.infer.outputs import Result, describe
from deployfold.runtimes.cuda import Cuda
from deployfold.runtimes.tensorrt_engine import EngineRunner
from deployfold.runtimes.tensorrt_file import numpy_dtype, runnable_sidecar
from deployfold.runtimes.tensorrt_library import RunOptions


def run_engine(
    path: Path, given: Sequence[Given] = (), *, options: RunOptions | None = None, seed: int = 0
) -> Result:
    """Run an engine once; see :func:`deployfold.infer.artifact.run_artifact`.

    Raises:
        UsageError: there is no such file, or an input is not the engine's.
        MeasureError: it cannot run here, or failed.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", hint="deployfold build makes artifacts.")
    sidecar = runnable_sidecar(path)
    spec = filled(input_tensors(sidecar, path), given, path.name)
    rng = np.random.default_rng(seed)
    arrays, data = {}, []
    for name, tensor, one in zip(spec.names, spec.tensors, values_for(spec, given), strict=True):
        if one is None or one.values is None:
            arrays[name] = random_array(tensor, rng)
            data.append(f"seeded random (seed {seed})")
        else:
            arrays[name] = one.values
            data.append(one.origin)
    try:
        cuda = Cuda()
    except MeasureError as error:
        raise MeasureError(
            f"{path.name} was built for {built_for(sidecar)}, and there is no such GPU here.",
            hint="Run it where the GPU is, or run the ONNX that it was built from.",
        ) from error
    with closing(cuda), closing(EngineRunner(path, cuda, options)) as runner:
        runner.load()
        runner.bind(arrays)
        runner.step()
        found, graph = runner.outputs(), runner.cuda_graph
    outputs = tuple(describe(name, array, alone=len(found) == 1) for name, array in found.items())
    title = LIBRARY_TITLES[sidecar["library"]]
    return Result(str(path), title, spec, tuple(data), outputs, found, graph=graph)


def random_array(tensor: TensorSpec, rng: np.random.Generator) -> NDArray[Any]:
    """Values of the kind that :func:`deployfold.loading.make_inputs` draws, which needs torch."""
    dtype = numpy_dtype(tensor.dtype)
    if dtype.kind in "iub":
        return rng.integers(0, 256 if dtype == np.uint8 else 2, tensor.shape).astype(dtype)
    return rng.standard_normal(tensor.shape).astype(dtype)
