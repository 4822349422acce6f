"""Whether an engine of the self-test runs on the GPU in this machine, and runs right."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from deployfold.errors import MeasureError
from deployfold.runtimes.cuda import Cuda
from deployfold.runtimes.tensorrt_engine import EngineRunner


def run_self_test(engine: Path) -> None:
    """Run the engine of :data:`deployfold.compiling.selftest.RELU`, and check what comes out.

    Raises:
        MeasureError: there is no GPU, it does not run, or something else than max(x, 0) comes out.
    """
    x = np.array([[-1.5, 0.0, 2.25, -1e30]], np.float32)
    with closing(Cuda()) as cuda, closing(EngineRunner(engine, cuda)) as runner:
        runner.load()
        runner.bind({"x": x})
        runner.step()
        (y,) = runner.outputs().values()
    if not np.array_equal(y, np.maximum(x, 0)):
        raise MeasureError(f"max(x, 0) of {x.tolist()} came out as {y.tolist()}.")
