"""Run a TensorRT or TensorRT-RTX engine, with torch's CUDA tensors as its memory.

Every TensorRT name used here stands, with this signature, in the Python bindings of TensorRT 10.16,
11.4 and TensorRT-RTX 1.7.1.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from deployfold.compile.runtime import collecting_logger, runtime_library, select_profile
from deployfold.compile.sidecar import (
    Here,
    built_for,
    damage,
    differs,
    mismatch,
    read_sidecar,
)
from deployfold.errors import MeasureError

from .protocol import Array, DeviceTimes, Inputs, Step, as_measure_error, to_array, to_tensors

__all__ = ["TensorRTRunner", "built_for", "read_sidecar"]

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

    Args:
        path: the engine.
        allow_host_code: let a version-compatible engine run the lean runtime that it carries, which
            is native code: only where its author is trusted.
    """

    def __init__(self, path: Path, *, allow_host_code: bool = False) -> None:
        self._path = path
        self._allow_host_code = allow_host_code
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
                library is not installed, or the engine is not for this GPU or library version, by
                its sidecar or by the library's own judgement.
        """
        name = self._path.name
        if not self._path.is_file():
            raise MeasureError(f"{name} cannot be loaded: there is no such file.")
        sidecar = read_sidecar(self._path)
        if (broken := damage(sidecar, self._path)) is not None:
            raise MeasureError(f"{name} is damaged: {broken}.")
        elsewhere = f"built for {built_for(sidecar)}; measure it there: deployfold bench DIR"
        if not torch.cuda.is_available():
            hint = "This torch has no CUDA support." if torch.version.cuda is None else None
            raise MeasureError(elsewhere, hint=hint)
        trt = runtime_library(sidecar["library"])
        capability = torch.cuda.get_device_capability()
        if (reason := mismatch(sidecar, Here(capability, str(trt.__version__)))) is not None:
            raise MeasureError(f"{name} cannot run here: {reason}.")
        self._log = collecting_logger(trt, self._messages)
        with as_measure_error(f"{name} cannot be loaded"):
            self._runtime = trt.Runtime(self._log)
            if self._allow_host_code:
                self._runtime.engine_host_code_allowed = True
            content = self._path.read_bytes()
            self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            if differs(sidecar, self._path):
                raise MeasureError(f"{name} is damaged: its SHA-256 is not its sidecar's.")
            major, minor = capability
            why = f"{_validity(trt, self._runtime, content)}{self._last_message()}"
            raise MeasureError(f"{elsewhere} (this GPU is sm_{major}{minor}{why})")
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

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, in the order of :meth:`run`; the engine must be loaded."""
        return tuple(self._names("OUTPUT"))

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
        given = {
            name: value.to(self._dtype(name)).contiguous()
            for name, value in zip(names, to_tensors(inputs), strict=True)
        }
        shapes = {name: tuple(value.shape) for name, value in given.items()}
        if not select_profile(self._engine, self._context, self._stream.cuda_stream, shapes):
            raise MeasureError(
                f"{self._path.name}: no optimization profile holds the shapes {shapes}."
            )
        self._stream.synchronize()
        pairs = []
        for name, value in given.items():
            host, device = self._buffers(name, value)
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

    def _set_address(self, name: str, memory: torch.Tensor) -> None:
        if not self._context.set_tensor_address(name, memory.data_ptr()):
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


def _validity(trt: Any, runtime: Any, engine: bytes) -> str:
    """What TensorRT-RTX finds wrong with an engine: ``, unsupported cc``; nothing by TensorRT."""
    if not hasattr(runtime, "get_engine_validity"):  # of TensorRT-RTX alone
        return ""
    _, found = runtime.get_engine_validity(engine)
    reasons = [
        member.name.lower().replace("_", " ")
        for member in trt.EngineInvalidityDiagnostics.__members__.values()
        if int(member) & int(found)
    ]
    return "".join(f", {reason}" for reason in reasons)
