"""Runs ONNX files in ONNX Runtime, on the CPU or in another execution provider."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from deployfold.errors import MeasureError, UsageError
from deployfold.util.onnx_files import numpy_name, onnx_files

from .cuda import Cuda
from .device import gpu_index, is_gpu
from .failures import as_measure_error, check_there
from .inputs import StatedInput, as_array, check_count, check_shapes, fill
from .layer_times import WARM_UP, Profile
from .onnx_inputs import stated_input, stated_inputs
from .onnxruntime_cuda import BoundSession, provider_options
from .onnxruntime_profile import read_profile
from .onnxruntime_providers import CPU, CUDA, open_session, resolve_provider, short_name
from .runtime import Runtime, Shipping, TritonModel
from .settings import RunSettings
from .tail_name import head_reference, tail_name

if TYPE_CHECKING:
    from torch import Tensor

    from deployfold.config.inputs import InputSpec
    from deployfold.util.arrays import Array

    from .protocol import Inputs, Step


class OnnxRuntimeRunner:
    """Runs an ONNX file in ONNX Runtime, on the CPU or in another execution provider.

    Execution is sequential, and graph optimisations have their default level. The threads do not
    spin while they wait, because spinning threads would take the cores from the next row.

    Args:
        settings: ``threads`` are intra-op threads. ``None`` takes torch's number if torch is
            imported, so that all rows agree, and else ONNX Runtime's default.

    Raises:
        UsageError: the provider is not installed, or does not exist.
        MeasureError: the provider is installed but cannot be loaded here.
    """

    key: str | None = "onnxruntime"

    def __init__(self, path: Path, settings: RunSettings | None = None) -> None:
        self.settings = settings or RunSettings()
        self.placement: str | None = None
        """The nodes that a provider other than the CPU's runs; known once the model is loaded."""
        self._path = path
        self._implied = is_gpu(self.settings.device) and self.settings.provider is None
        self._provider = CUDA if self._implied else resolve_provider(self.settings.provider)
        self._session: Any = None
        self._cuda: Cuda | None = None
        self._stream = 0
        self._bound: BoundSession | None = None

    @property
    def title(self) -> str:
        """The runtime with its provider: ``ONNX Runtime (CPUExecutionProvider)``."""
        return f"ONNX Runtime ({self._provider})"

    @property
    def variant(self) -> str:
        """The short name of the provider that the user chose, such as ``CUDA``; else empty."""
        return "" if self._implied or self._provider == CPU else short_name(self._provider)

    def load(self) -> None:
        """Read the model and let ONNX Runtime optimise it.

        Raises:
            MeasureError: the model cannot be loaded, or the provider does not run it.
        """
        if self._session is not None:
            return
        check_there(self._path)
        own = self._on_gpu() if self._implied else None
        self._session, self.placement = open_session(
            self._path, self._options(), self._provider, own
        )

    def prepare(self, inputs: Inputs) -> Step:
        """Copy the inputs to numpy arrays of the dtypes that the graph declares.

        If all rows run on a GPU, the inputs are bound there, and CUDA events time the step.
        """
        session, feed = self._loaded(), self._feed(inputs)
        if self._cuda is not None:
            self._unbind()
            with as_measure_error(f"{self._path.name} failed"):
                self._bound = BoundSession(session, self._cuda, self._stream, feed)
                self._bound.step()
            return self._bound.step

        def step() -> None:
            session.run(None, feed)

        return step

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        """Run one inference; the outputs in the graph's order."""
        session, feed = self._loaded(), self._feed(inputs)
        with as_measure_error(f"{self._path.name} failed"):
            outputs = session.run(None, feed)
        return tuple(np.asarray(output) for output in outputs)

    @property
    def onnx(self) -> Path:
        """The file itself."""
        return self._path

    def profile(self, inputs: Inputs, calls: int) -> Profile:
        """The time of each node; see :class:`.layer_times.LayerProfiler`.

        Raises:
            MeasureError: a node runs on another provider than the CPU's, whose profile holds the
                time of the launch alone.
        """
        if self._provider != CPU:
            raise MeasureError(
                f"ONNX Runtime tells the time of a node on the CPU alone, not in {self._provider}"
            )
        feed = self._feed(inputs)
        with TemporaryDirectory() as folder, as_measure_error(f"{self._path.name} failed"):
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session, _ = open_session(self._path, options, self._provider, None)
            for _ in range(WARM_UP + calls):
                session.run(None, feed)
            return read_profile(Path(session.end_profiling()), skip=WARM_UP)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on the clock, and on the nodes that another provider leaves to the CPU."""
        if self._implied:
            return () if self.placement is None else (self.placement,)
        if not self.variant:
            return ()
        clock = "time by the host's clock, with the copies to and from the device"
        return (clock,) if self.placement is None else (self.placement, clock)

    def inputs(self, asked: InputSpec | None = None) -> InputSpec:
        """The graph's inputs; a dynamic axis has size 1 unless ``asked`` sets it.

        Raises:
            MeasureError: the file is not an ONNX.
            UsageError: the graph has no such input, or does not accept the shape.
        """
        stated = stated_inputs(self._path) if self._session is None else self.stated
        spec = fill(stated, asked, self._path.name)
        check_shapes(spec, stated, self._path.name)
        return spec

    @property
    def stated(self) -> tuple[StatedInput, ...]:
        """The inputs as ONNX Runtime describes them; the model must be loaded."""
        return tuple(
            stated_input(value.name, numpy_name(value.type), value.shape)
            for value in self._loaded().get_inputs()
        )

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, in the order of :meth:`run`; the model must be loaded."""
        return tuple(value.name for value in self._loaded().get_outputs())

    def close(self) -> None:
        """Drop the session, and free the memory on the GPU."""
        self._unbind()
        self._session = None
        cuda, self._cuda = self._cuda, None
        if cuda is not None:
            cuda.call("cuStreamDestroy_v2", self._stream)
            cuda.close()

    def _options(self) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self.settings.threads or _threads_of_torch()
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors only: warnings would disturb the progress bar
        return options

    def _on_gpu(self) -> dict[str, str]:
        """Open the GPU that all rows run on, and return the provider's options.

        Raises:
            MeasureError: this ONNX Runtime has no CUDA provider, or there is no GPU.
        """
        try:
            resolve_provider("cuda")
        except UsageError as error:
            raise MeasureError(error.message, hint=error.hint) from error
        self._cuda = Cuda(index=gpu_index(self.settings.device))
        self._stream = self._cuda.stream()
        return provider_options(self._cuda, self._stream, tf32=self.settings.tf32)

    def _unbind(self) -> None:
        bound, self._bound = self._bound, None
        if bound is not None:
            bound.close()

    def _loaded(self) -> Any:
        if self._session is None:
            raise MeasureError(f"{self._path.name} is not loaded.")
        return self._session

    def _feed(self, inputs: Inputs) -> dict[str, Array]:
        wanted = self._loaded().get_inputs()
        check_count(self._path.name, len(wanted), len(inputs))
        return {
            value.name: self._as(value.type, one) for value, one in zip(wanted, inputs, strict=True)
        }

    def _as(self, declared: str, value: Array | Tensor) -> Array:
        dtype = numpy_name(declared)
        if dtype not in _NUMPY:
            raise MeasureError(
                f"{self._path.name} takes {declared}, which numpy cannot represent.",
                hint="Export with float32 or float16 inputs to measure in ONNX Runtime.",
            )
        return np.array(as_array(value), dtype=dtype, order="C")


_NUMPY = frozenset("float32 float16 float64 int64 int32 int16 int8 uint8 bool".split())


def _threads_of_torch() -> int:
    """torch's number of threads; 0, ONNX Runtime's default, if torch is not imported."""
    import sys

    torch = sys.modules.get("torch")
    return 0 if torch is None else int(torch.get_num_threads())


def _parts(path: Path) -> tuple[str, ...]:
    """The name of the file with external weights, if there is one."""
    return tuple(file.name for file in onnx_files(path)[1:])


def _sidecars(path: Path) -> tuple[str, ...]:
    name, reference = tail_name(path.name), head_reference(path.name)
    if name is None or reference is None:
        return ()
    return (name, *_parts(path.with_name(name)), reference)


def _open(path: Path, settings: RunSettings) -> Any:
    from .tail import with_tail

    return with_tail(OnnxRuntimeRunner(path, settings), path)


ONNX_IN_TRITON = TritonModel("onnxruntime", "onnxruntime_onnx", "model.onnx")

ONNX_RUNTIME = Runtime(
    key="onnxruntime",
    title="ONNX Runtime",
    suffixes=(".onnx",),
    module="onnxruntime",
    install="pip install onnxruntime",
    open=_open,
    states_inputs=True,
    takes_provider=True,
    triton=ONNX_IN_TRITON,
    shipping=Shipping("onnx", parts=_parts, sidecars=_sidecars),
)
