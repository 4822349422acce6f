"""A trial run: the engine of a trial build on the GPU in this machine, with its outputs checked."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from deployfold.errors import MeasureError
from deployfold.runtimes.cuda import Cuda
from deployfold.runtimes.tensorrt_engine import EngineRunner


def try_run(engine: Path) -> None:
    """Run an engine of :data:`deployfold.compiling.trial_build.RELU`, and check its outputs.

    Raises:
        MeasureError: there is no GPU, the engine does not run, or its outputs are not max(x, 0).
    """
    x = np.array([[-1.5, 0.0, 2.25, -1e30]], np.float32)
    with closing(Cuda()) as cuda, closing(EngineRunner(engine, cuda)) as runner:
        runner.load()
        runner.bind({"x": x})
        runner.step()
        (y,) = runner.outputs().values()
    if not np.array_equal(y, np.maximum(x, 0)):
        raise MeasureError(f"The test engine computes max(x, 0) of {x.tolist()} as {y.tolist()}.")
