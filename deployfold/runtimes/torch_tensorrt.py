"""Runs a ``.pt2`` with TensorRT engines inside, in the form that torch-tensorrt saves."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployfold.compiling.torch_tensorrt.compile import INSTALL
from deployfold.config.inputs import InputSpec
from deployfold.errors import MeasureError, UsageError

from .device import CPU
from .failures import as_measure_error
from .runtime import Runtime
from .settings import RunSettings
from .times import DeviceTimes

if TYPE_CHECKING:
    import torch

    from .protocol import Array, Inputs, Step


class TorchTensorRTRunner:
    """Runs an exported program with engines inside, on the GPU that it was compiled for.

    A step copies the inputs from pinned host memory, calls the program and copies the outputs back.
    The three are timed separately, as in :class:`~.tensorrt.TensorRTRunner`.

    Args:
        path: the output of :func:`~deployfold.compiling.torch_tensorrt.compile.
            compile_torch_tensorrt`.
    """

    key: str | None = "torch_tensorrt"
    title = "torch-tensorrt"
    variant = ""

    def __init__(self, path: Path, settings: RunSettings | None = None) -> None:
        self.settings = settings or RunSettings()
        self._path = path
        self._call: Any = None

    def load(self) -> None:
        """Import torch-tensorrt, which registers the engines' class, and read the program.

        Raises:
            MeasureError: this machine has no GPU, torch-tensorrt cannot be imported, or the program
                cannot be read.
        """
        import torch

        if self._call is not None:
            return
        if self.settings.device == CPU:
            raise MeasureError("engines run on a GPU, but the rows of this table run on the CPU")
        if not torch.cuda.is_available():
            raise MeasureError(f"{self._path.name} runs only on the GPU that it was compiled for.")
        with as_measure_error(f"{self._path.name} cannot be loaded"):
            import_module("torch_tensorrt")
            self._call = torch.export.load(self._path).module()

    def prepare(self, inputs: Inputs) -> Step:
        """Copy the inputs to pinned memory; each step copies them in, calls, and copies out."""
        import torch
        from torch.utils._pytree import tree_leaves

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
        """Run one call; the outputs in pytree order, copied to the host."""
        import torch
        from torch.utils._pytree import tree_leaves

        from .tensors import to_array

        call = self._loaded()
        with as_measure_error(f"{self._path.name} failed"), torch.inference_mode():
            leaves = tree_leaves(call(*(host.cuda() for host in self._hosts(inputs))))
            return tuple(to_array(leaf) for leaf in leaves)

    def close(self) -> None:
        """Drop the program and its engines."""
        self._call = None

    def inputs(self, asked: InputSpec | None = None) -> InputSpec:
        """The requested inputs, because the file can be read only on a machine with its GPU.

        Raises:
            UsageError: no inputs were requested.
        """
        if asked is None:
            raise UsageError(
                f"{self._path.name} does not list its inputs on a machine without its GPU.",
                hint="Add --input for each, for example --input x.npy.",
            )
        return asked

    def _hosts(self, inputs: Inputs) -> list[torch.Tensor]:
        from .tensors import to_tensors

        return [value.pin_memory() for value in to_tensors(inputs)]

    def _loaded(self) -> Any:
        if self._call is None:
            raise MeasureError(f"{self._path.name} is not loaded.")
        return self._call


TORCH_TENSORRT = Runtime(
    key="torch_tensorrt",
    title="torch-tensorrt",
    suffixes=(".trt.pt2",),
    module="torch_tensorrt",
    install=INSTALL,
    install_needs="an NVIDIA driver",
    open=TorchTensorRTRunner,
    optional=True,
    devices=("cuda",),
)
