"""The allocation of an engine's buffers, the capture of its CUDA graph, and their failures."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from copying_engine import CopyingContext, CopyingEngine

from deployfold.errors import MeasureError
from deployfold.runtimes.cuda import Cuda
from deployfold.runtimes.settings import RunSettings
from deployfold.runtimes.tensorrt_engine import EngineRunner
from deployfold.runtimes.tensorrt_file import numpy_dtype
from deployfold.runtimes.tensorrt_library import Context
from deployfold.runtimes.tensorrt_load import LoadedEngine


def runner_of(
    cuda: Cuda, context: CopyingContext, *, graph: bool = True, location: str = "DEVICE"
) -> EngineRunner:
    runner = EngineRunner(Path("net.engine"), cuda, RunSettings(cuda_graph=graph))
    engine = CopyingEngine(location)
    runner.take(LoadedEngine(None, ["the last error"], None, None, engine, Context(context)))
    return runner


@pytest.fixture
def cuda(library: str) -> Iterator[Cuda]:
    """A driver that checks at the end that all memory was freed."""
    cuda = Cuda(library)
    yield cuda
    cuda.close()
    assert ctypes.CDLL(library).live_objects() == 0


def x(value: float, batch: int = 2) -> dict[str, np.ndarray]:
    return {"x": np.full((batch, 2), value, np.float32)}


def run(runner: EngineRunner, value: float, batch: int = 2) -> np.ndarray:
    runner.bind(x(value, batch))
    runner.step()
    (output,) = runner.outputs().values()
    return output


def test_the_graph_is_captured_once_and_launched_for_every_step(cuda: Cuda) -> None:
    context = CopyingContext(cuda)
    runner = runner_of(cuda, context)
    for value in (1.0, 2.0, 3.0):
        np.testing.assert_array_equal(run(runner, value), x(value)["x"])
    assert context.runs == 2, "once to take up the shapes, and once to capture"
    assert runner.step().graph == runner.cuda_graph
    assert (runner.cuda_graph.used, runner.cuda_graph.reason) == (True, "")
    np.testing.assert_array_equal(run(runner, 4.0, batch=3), x(4.0, 3)["x"])
    assert context.runs == 4, "another shape is another graph"
    runner.close()
    runner.close()


@pytest.mark.parametrize("graph", [True, False])
def test_work_that_cannot_be_captured_is_launched_by_kernels_with_the_reason(
    cuda: Cuda, graph: bool
) -> None:
    context = CopyingContext(cuda, waits=True)
    runner = runner_of(cuda, context, graph=graph)
    np.testing.assert_array_equal(run(runner, 5.0), x(5.0)["x"])
    runs = context.runs
    np.testing.assert_array_equal(run(runner, 6.0), x(6.0)["x"])
    assert context.runs == runs + 1
    assert not runner.cuda_graph.used
    if graph:
        assert "cannot be captured" in runner.cuda_graph.reason
        assert "cuStreamSynchronize" in runner.cuda_graph.reason
    else:
        assert runner.cuda_graph.reason == "--no-cuda-graph"
    runner.close()


def test_values_on_the_host_are_never_kept_in_a_graph(cuda: Cuda) -> None:
    context = CopyingContext(cuda)
    runner = runner_of(cuda, context, location="HOST")
    for value in (1.0, 2.0):
        np.testing.assert_array_equal(run(runner, value), x(value)["x"])
    assert context.runs == 4, "captured anew for other values"
    runner.close()


def test_an_engine_that_fails_says_why_and_can_be_closed(cuda: Cuda) -> None:
    runner = runner_of(cuda, CopyingContext(cuda, fails=True))
    with pytest.raises(MeasureError, match=r"net\.engine failed: the last error\."):
        runner.bind(x(1.0))
    runner.close()


def test_a_failed_binding_is_not_taken_for_a_good_one(cuda: Cuda) -> None:
    context = CopyingContext(cuda)
    runner = runner_of(cuda, context)
    with pytest.raises(MeasureError, match="no optimization profile contains the shape 9x2 of 'x'"):
        runner.bind(x(1.0, 9))
    with pytest.raises(MeasureError, match="needs an input named 'x'"):
        runner.bind({"z": x(1.0)["x"]})
    np.testing.assert_array_equal(run(runner, 7.0), x(7.0)["x"])
    runner.close()
    with pytest.raises(MeasureError, match="is not loaded"):
        runner.bind(x(1.0))


def test_numpys_dtypes_and_those_that_it_lacks() -> None:
    pytest.importorskip("ml_dtypes")
    assert numpy_dtype("float32") == np.float32
    assert numpy_dtype("bfloat16").itemsize == 2
    with pytest.raises(TypeError):
        numpy_dtype("float7")
