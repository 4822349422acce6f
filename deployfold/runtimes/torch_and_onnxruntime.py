"""One class per runtime, all with the methods of :class:`~.protocol.Runner`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch.utils._pytree import tree_leaves

from deployfold.errors import MeasureError

from .failures import as_measure_error
from .onnxruntime_providers import CPU, open_session
from .protocol import Array, Inputs, Runner, Step, to_array, to_tensors
from .tensorrt import TensorRTRunner

__all__ = [
    "EagerRunner",
    "OnnxRuntimeRunner",
    "ProgramRunner",
    "Runner",
    "Step",
    "TensorRTRunner",
    "TorchScriptRunner",
]


class _TorchRunner:
    """A torch callable, run under ``torch.inference_mode`` on the CPU.

    Threads are torch's global setting; see :func:`.threads.torch_threads`.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._call: Callable[..., Any] | None = None

    def load(self) -> None:
        """Make the callable ready."""
        raise NotImplementedError

    def prepare(self, inputs: Inputs) -> Step:
        """Copy the inputs to CPU tensors; each step is one call under ``inference_mode``."""
        call = self._loaded()
        tensors = to_tensors(inputs)

        def step() -> None:
            with torch.inference_mode():
                call(*tensors)

        return step

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        """One call; the tensors in the output, however nested, in pytree order."""
        call = self._loaded()
        with as_measure_error(f"{self._title} failed"), torch.inference_mode():
            leaves = tree_leaves(call(*to_tensors(inputs)))
            return tuple(to_array(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor))

    def close(self) -> None:
        """Drop the model."""
        self._call = None

    def _loaded(self) -> Callable[..., Any]:
        if self._call is None:
            raise MeasureError(f"{self._title} is not loaded.")
        return self._call


class EagerRunner(_TorchRunner):
    """An ``nn.Module`` in eval mode, as Python runs it. The module is never changed."""

    def __init__(self, module: torch.nn.Module, *, title: str = "The PyTorch model") -> None:
        super().__init__(title)
        self._module: torch.nn.Module | None = module

    def load(self) -> None:
        """Nothing to read: the module is in memory."""
        if self._module is None:
            raise MeasureError(f"{self._title} was closed.")
        self._call = self._module

    def close(self) -> None:
        """Drop the reference to the module."""
        super().close()
        self._module = None


class TorchScriptRunner(_TorchRunner):
    """A TorchScript archive (``.ts.pt``)."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.name)
        self._path = path

    def load(self) -> None:
        """Read the archive onto the CPU."""
        with as_measure_error(f"{self._path.name} cannot be loaded"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls TorchScript deprecated at every use
            self._call = torch.jit.load(  # type: ignore[no-untyped-call]
                str(self._path), map_location="cpu"
            )


class ProgramRunner(_TorchRunner):
    """A ``torch.export`` program (``.pt2``), run as the module it unpacks to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.name)
        self._path = path

    def load(self) -> None:
        """Read the program."""
        with as_measure_error(f"{self._path.name} cannot be loaded"):
            self._call = torch.export.load(self._path).module()


class OnnxRuntimeRunner:
    """An ONNX file in ONNX Runtime, on the CPU or in another execution provider.

    Sequential execution, graph optimisations at their default level. Its threads do not spin
    while they wait for work: they would take the cores from whichever row runs next.

    Args:
        path: the ``.onnx`` file.
        threads: intra-op threads; ``None`` takes torch's number, so that all rows agree.
        names: the input names of the values that :meth:`run` gets, in their order; ``None`` takes
            them in the model's own order. With names, inputs that the exporter found unused and
            dropped are left out.
        provider: ONNX Runtime's name for it; see :func:`.providers.resolve_provider`.
    """

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        *,
        names: Sequence[str] | None = None,
        provider: str = CPU,
    ) -> None:
        self._path = path
        self._threads = threads
        self._names = None if names is None else tuple(names)
        self._provider = provider
        self.placement: str | None = None
        """What of it runs in another provider than the CPU's; known when it is loaded."""
        self._session: Any = None

    def load(self) -> None:
        """Read the model and let ONNX Runtime optimise it.

        Raises:
            MeasureError: it cannot be loaded, or the provider does not run it.
        """
        if not self._path.is_file():
            raise MeasureError(f"{self._path.name} cannot be loaded: there is no such file.")
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads or torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors; optimiser warnings would break up the progress
        self._session, self.placement = open_session(self._path, options, self._provider)

    def prepare(self, inputs: Inputs) -> Step:
        """Copy the inputs to numpy arrays of the dtypes that the graph declares."""
        session, feed = self._loaded(), self._feed(inputs)

        def step() -> None:
            session.run(None, feed)

        return step

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        """One inference; the graph outputs in their order."""
        session, feed = self._loaded(), self._feed(inputs)
        with as_measure_error(f"{self._path.name} failed"):
            outputs = session.run(None, feed)
        return tuple(np.asarray(output) for output in outputs)

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be said of its numbers."""
        if self._provider == CPU:
            return ()
        clock = "time by the host's clock, with the copies to and from the device"
        return (clock,) if self.placement is None else (self.placement, clock)

    @property
    def inputs(self) -> Sequence[Any]:
        """The inputs as ONNX Runtime describes them; it must be loaded."""
        return tuple(self._loaded().get_inputs())

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, in the order of :meth:`run`; it must be loaded."""
        return tuple(value.name for value in self._loaded().get_outputs())

    def close(self) -> None:
        """Drop the session."""
        self._session = None

    def _loaded(self) -> Any:
        if self._session is None:
            raise MeasureError(f"{self._path.name} is not loaded.")
        return self._session

    def _feed(self, inputs: Inputs) -> dict[str, Array]:
        wanted = self._loaded().get_inputs()
        names = self._names or tuple(value.name for value in wanted)
        if len(names) != len(inputs):
            raise MeasureError(
                f"{self._path.name} takes {len(names)} inputs, and {len(inputs)} were given."
            )
        given = dict(zip(names, inputs, strict=True))
        missing = [value.name for value in wanted if value.name not in given]
        if missing:
            raise MeasureError(f"{self._path.name} needs an input named {missing[0]!r}.")
        return {value.name: self._as(value.type, given[value.name]) for value in wanted}

    def _as(self, declared: str, value: Array | torch.Tensor) -> Array:
        dtype = _ORT_DTYPES.get(declared)
        if dtype is None:
            raise MeasureError(
                f"{self._path.name} takes {declared}, which numpy cannot hold.",
                hint="Export with float32 or float16 inputs to measure in ONNX Runtime.",
            )
        array = to_array(value) if isinstance(value, torch.Tensor) else np.asarray(value)
        return np.array(array, dtype=dtype, order="C")


_ORT_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
