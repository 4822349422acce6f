"""Run a ``.pt2`` with TensorRT engines inside, as torch-tensorrt saves it, on the GPU."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from deployfold.errors import MeasureError

from .failures import as_measure_error
from .protocol import Array, Inputs, Step, to_array, to_tensors
from .times import DeviceTimes

PROGRAM_SUFFIX = ".trt.pt2"
"""How the names of programs with engines inside end, which tells them from plain programs."""


class TorchTensorRTRunner:
    """An exported program with engines inside, on the GPU that it was compiled for.

    A step copies the inputs from pinned host memory, calls the program and copies the outputs
    back, timed apart as :class:`~.tensorrt_runner.TensorRTRunner` does.

    Args:
        path: what :func:`~deployfold.compiling.torch_tensorrt.build.compile_torch_tensorrt` wrote.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._call: Any = None

    def load(self) -> None:
        """Import torch-tensorrt, which registers the engines' class, and read the program.

        Raises:
            MeasureError: no GPU here, torch-tensorrt cannot be imported, or the program not read.
        """
        if not torch.cuda.is_available():
            raise MeasureError(f"{self._path.name} runs on the GPU it was compiled for alone.")
        with as_measure_error(f"{self._path.name} cannot be loaded"):
            import_module("torch_tensorrt")
            self._call = torch.export.load(self._path).module()

    def prepare(self, inputs: Inputs) -> Step:
        """Pin the inputs; each step is a copy in, one call and the copies out."""
        call, hosts = self._loaded(), self._hosts(inputs)
        begin, copied, computed, end = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(4)
        )

        def step() -> DeviceTimes:
            with torch.inference_mode():
                begin.record()
                values = [host.to("cuda", non_blocking=True) for host in hosts]
                copied.record()
                leaves = tree_leaves(call(*values))
                computed.record()
                for leaf in leaves:
                    leaf.to("cpu", non_blocking=True)
                end.record()
            end.synchronize()
            return DeviceTimes(
                compute_ms=copied.elapsed_time(computed),
                h2d_ms=begin.elapsed_time(copied),
                d2h_ms=computed.elapsed_time(end),
            )

        return step

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        """One call; the outputs in pytree order, copied to the host."""
        call = self._loaded()
        with as_measure_error(f"{self._path.name} failed"), torch.inference_mode():
            leaves = tree_leaves(call(*(host.cuda() for host in self._hosts(inputs))))
            return tuple(to_array(leaf) for leaf in leaves)

    def close(self) -> None:
        """Drop the program and its engines."""
        self._call = None

    def _hosts(self, inputs: Inputs) -> list[torch.Tensor]:
        return [value.pin_memory() for value in to_tensors(inputs)]

    def _loaded(self) -> Any:
        if self._call is None:
            raise MeasureError(f"{self._path.name} is not loaded.")
        return self._call
