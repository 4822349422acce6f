"""Run a TensorRT or TensorRT-RTX engine, with torch's CUDA tensors as its memory.

Every TensorRT name used here stands, with this signature, in the Python bindings of TensorRT 10.16,
11.4 and TensorRT-RTX 1.7.1.
"""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any

import torch

from deployfold.errors import MeasureError

from .protocol import Array, DeviceTimes, Inputs, Step, as_measure_error, to_array, to_tensors

LIBRARIES = ("tensorrt", "tensorrt_rtx")

_TORCH_DTYPES: dict[str, torch.dtype] = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "FP8": torch.float8_e4m3fn,
    "INT8": torch.int8,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "UINT8": torch.uint8,
    "BOOL": torch.bool,
}


class TensorRTRunner:
    """An engine file with its sidecar ``<engine>.json``, which names the library that built it.

    A step copies the inputs from pinned host memory, runs the engine and copies the outputs back,
    all on one stream; CUDA events between the three time each apart, as trtexec does.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        self._messages: list[str] = []
        self._log: Any = None

    def load(self) -> None:
        """Deserialise the engine on the current CUDA device.

        Raises:
            MeasureError: no GPU or driver here ("built for sm_89; measure it there: …"), the
                library is not installed, or the engine is not for this GPU or library version.
        """
        name = self._path.name
        if not self._path.is_file():
            raise MeasureError(f"{name} cannot be loaded: there is no such file.")
        sidecar = read_sidecar(self._path)
        elsewhere = f"built for {built_for(sidecar)}; measure it there: deployfold bench DIR"
        if not torch.cuda.is_available():
            hint = "This torch has no CUDA support." if torch.version.cuda is None else None
            raise MeasureError(elsewhere, hint=hint)
        trt = _library(sidecar["library"])
        self._log = _collecting_logger(trt, self._messages)
        with as_measure_error(f"{name} cannot be loaded"):
            self._runtime = trt.Runtime(self._log)
            self._engine = self._runtime.deserialize_cuda_engine(self._path.read_bytes())
        if self._engine is None:
            major, minor = torch.cuda.get_device_capability()
            raise MeasureError(f"{elsewhere} (this GPU is sm_{major}{minor}{self._last_message()})")
        with as_measure_error(f"{name} cannot be loaded"):
            self._context = self._engine.create_execution_context()
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        if self._context is None:
            raise MeasureError(f"{name}: no execution context{self._last_message()}.")

    def prepare(self, inputs: Inputs) -> Step:
        """Set shapes and addresses; pinned host copies of inputs and outputs are made here."""
        return self._bind(inputs)[0]

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        """One inference; the outputs in the engine's order, copied to the host."""
        step, outputs = self._bind(inputs)
        with as_measure_error(f"{self._path.name} failed"):
            step()
            return tuple(to_array(output) for output in outputs)

    def close(self) -> None:
        """Free context, engine and runtime, in that order, as TensorRT asks for."""
        self._context = None
        self._engine = None
        self._runtime = None
        self._stream = None
        self._log = None

    def _bind(self, inputs: Inputs) -> tuple[Step, tuple[torch.Tensor, ...]]:
        if self._context is None:
            raise MeasureError(f"{self._path.name} is not loaded.")
        with as_measure_error(f"{self._path.name} does not take these inputs"):
            pairs_in = self._bind_inputs(inputs)
            pairs_out = self._bind_outputs()
            torch.cuda.synchronize()
        host_outputs = tuple(host for host, _ in pairs_out)
        return self._step(pairs_in, pairs_out), host_outputs

    def _bind_inputs(self, inputs: Inputs) -> list[tuple[torch.Tensor, torch.Tensor]]:
        names = self._names("INPUT")
        if len(names) != len(inputs):
            raise MeasureError(
                f"{self._path.name} takes {len(names)} inputs, and {len(inputs)} were given."
            )
        pairs = []
        for name, value in zip(names, to_tensors(inputs), strict=True):
            host = value.to(self._dtype(name)).contiguous()
            host, device = self._buffers(name, host)
            if not self._context.set_input_shape(name, tuple(host.shape)):
                raise MeasureError(
                    f"{self._path.name}: no optimization profile holds the shape"
                    f" {'x'.join(map(str, host.shape))} of {name!r}{self._last_message()}."
                )
            self._set_address(name, device)
            pairs.append((host, device))
        return pairs

    def _bind_outputs(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        # Empty when every shape is known; else the names of the inputs that are missing.
        unknown = self._context.infer_shapes()
        if unknown:
            raise MeasureError(f"{self._path.name}: the shape of {unknown[0]!r} is not set.")
        pairs = []
        for name in self._names("OUTPUT"):
            shape = tuple(self._context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise MeasureError(
                    f"{self._path.name}: the shape of the output {name!r} depends on the data,"
                    " which deployfold cannot measure."
                )
            host, device = self._buffers(name, torch.empty(shape, dtype=self._dtype(name)))
            self._set_address(name, device)
            pairs.append((host, device))
        return pairs

    def _step(
        self,
        pairs_in: list[tuple[torch.Tensor, torch.Tensor]],
        pairs_out: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> Step:
        context, stream, handle = self._context, self._stream, self._stream.cuda_stream
        begin, copied, computed, end = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(4)
        )

        def step() -> DeviceTimes:
            with torch.cuda.stream(stream):
                begin.record(stream)
                for host, device in pairs_in:
                    if device is not host:
                        device.copy_(host, non_blocking=True)
                copied.record(stream)
                launch = time.perf_counter()
                enqueued = context.execute_async_v3(handle)
                launched = time.perf_counter()
                computed.record(stream)
                for host, device in pairs_out:
                    if device is not host:
                        host.copy_(device, non_blocking=True)
                end.record(stream)
            end.synchronize()
            if not enqueued:
                raise MeasureError(f"{self._path.name} failed{self._last_message()}.")
            return DeviceTimes(
                compute_ms=copied.elapsed_time(computed),
                h2d_ms=begin.elapsed_time(copied),
                d2h_ms=computed.elapsed_time(end),
                enqueue_ms=1e3 * (launched - launch),
            )

        return step

    def _buffers(self, name: str, host: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Host and device memory of a tensor; the same one where TensorRT wants it on the host."""
        if self._engine.get_tensor_location(name).name == "HOST":
            return host, host
        return host.pin_memory(), torch.empty_like(host, device="cuda")

    def _set_address(self, name: str, tensor: torch.Tensor) -> None:
        if not self._context.set_tensor_address(name, tensor.data_ptr()):
            raise MeasureError(f"{self._path.name}: no address for {name!r}{self._last_message()}.")

    def _names(self, mode: str) -> list[str]:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return [name for name in names if engine.get_tensor_mode(name).name == mode]

    def _dtype(self, name: str) -> torch.dtype:
        dtype = self._engine.get_tensor_dtype(name).name
        if dtype not in _TORCH_DTYPES:
            raise MeasureError(f"{self._path.name}: torch has no {dtype}, the dtype of {name!r}.")
        return _TORCH_DTYPES[dtype]

    def _last_message(self) -> str:
        return f": {self._messages[-1]}" if self._messages else ""


def read_sidecar(engine: Path) -> dict[str, Any]:
    """The JSON object beside an engine, ``<engine>.json``, with a known ``library``.

    Raises:
        MeasureError: it is missing, not JSON, or names no library that deployfold can run.
    """
    path = engine.with_name(f"{engine.name}.json")
    hint = "Engines that deployfold builds come with one; keep the two files together."
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MeasureError(
            f"{engine.name} has no readable sidecar {path.name}: {error.strerror}.", hint=hint
        ) from error
    except ValueError as error:
        raise MeasureError(f"{path.name} is not JSON.", hint=hint) from error
    if not isinstance(sidecar, dict) or sidecar.get("library") not in LIBRARIES:
        raise MeasureError(
            f"{path.name} does not say which of {' and '.join(LIBRARIES)} built the engine.",
            hint=hint,
        )
    return sidecar


def built_for(sidecar: dict[str, Any]) -> str:
    """The GPUs an engine was built for: ``sm_80, sm_89`` from ``compute_capabilities``."""
    capabilities = sidecar.get("compute_capabilities")
    if not isinstance(capabilities, list) or not capabilities:
        return "an NVIDIA GPU"
    return ", ".join(f"sm_{str(capability).replace('.', '')}" for capability in capabilities)


def _library(name: str) -> Any:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise MeasureError(
            f"The engine needs {name}, which cannot be imported here: {error}.",
            hint=f"Install it with: pip install {name.replace('_', '-')}",
        ) from error
    if not hasattr(module, "Runtime"):
        raise MeasureError(
            f"{getattr(module, '__file__', name)} hides NVIDIA's {name}.",
            hint="Rename that file, or run from another directory.",
        )
    return module


def _collecting_logger(trt: Any, messages: list[str]) -> Any:
    """A TensorRT logger that keeps errors for our own message and prints nothing."""

    class Collector(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                messages.append(msg.strip())

    return Collector()
