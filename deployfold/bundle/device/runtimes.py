"""One class a runtime: what it takes, and one inference."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deployfold.errors import MeasureError
from deployfold.runtimes.cuda import Cuda
from deployfold.runtimes.tensorrt_engine import EngineRunner
from deployfold.runtimes.tensorrt_file import runnable_sidecar
from deployfold.runtimes.tensorrt_library import RunOptions

Array = NDArray[Any]
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_DTYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64",
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int8)": "int8",
    "tensor(uint8)": "uint8", "tensor(bool)": "bool",
}  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """An input: its name, its dtype in numpy, and its batch where that is fixed."""

    name: str
    dtype: str
    batch: int | None


class Runtime(Protocol):
    """An artifact that can run here."""

    title: str

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """The inputs, in the artifact's order."""

    def bind(self, inputs: Mapping[str, Array]) -> None:
        """Take the inputs of the runs that follow."""

    def run(self) -> float:
        """One inference; returns milliseconds."""

    def outputs(self) -> list[Array]:
        """What the last one gave, in the artifact's order."""

    def close(self) -> None:
        """Free what it holds."""


class OnnxRuntime:
    """An ONNX, on a GPU where this ONNX Runtime can use one.

    Raises:
        MeasureError: it cannot be loaded; so does every method where it fails.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise MeasureError(
                "ONNX Runtime is not installed here.", hint="Install it: pip install onnxruntime"
            ) from error
        providers = [_CUDA, _CPU] if onnx_gpu() else [_CPU]
        try:
            self._session = ort.InferenceSession(str(path), providers=providers)
        except Exception as error:
            raise MeasureError(f"{path.name} cannot be loaded: {_line(error)}.") from error
        self.title = f"ONNX Runtime ({self._session.get_providers()[0]})"
        self._inputs: dict[str, Array] = {}
        self._outputs: list[Array] = []

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """The inputs; the batch of a dynamic one is free."""
        found = []
        for value in self._session.get_inputs():
            first = value.shape[0] if value.shape else None
            dtype = _DTYPES.get(value.type, "float32")
            found.append(Wanted(value.name, dtype, first if isinstance(first, int) else None))
        return tuple(found)

    def bind(self, inputs: Mapping[str, Array]) -> None:
        """Keep the inputs."""
        self._inputs = dict(inputs)

    def run(self) -> float:
        """One inference by the clock of the host."""
        start = time.perf_counter()
        try:
            self._outputs = self._session.run(None, self._inputs)
        except Exception as error:
            raise MeasureError(f"ONNX Runtime failed: {_line(error)}.") from error
        return 1e3 * (time.perf_counter() - start)

    def outputs(self) -> list[Array]:
        """The outputs."""
        return list(self._outputs)

    def close(self) -> None:
        """Nothing is held."""


class TensorRT:
    """An engine on the first GPU, which its sidecar must name.

    Args:
        trust: let a version-compatible engine run the lean runtime that it carries.

    Raises:
        MeasureError: there is no GPU, or the engine is not for it; so does every method where it
            fails.
    """

    def __init__(self, path: Path, *, trust: bool = False) -> None:
        self._sidecar = runnable_sidecar(path)
        self._cuda = Cuda()
        self._runner = EngineRunner(path, self._cuda, RunOptions(allow_host_code=trust))
        try:
            self._runner.load()
            self.title = f"{self._sidecar['library']} on {self._cuda.name}"
        except BaseException:
            self.close()
            raise

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """The inputs; of a dynamic batch the least that the engine takes."""
        low = {one["name"]: one["min"] for one in self._sidecar["profiles"][0]}
        inputs = [one for one in self._sidecar["tensors"] if one["mode"] == "input"]
        return tuple(
            Wanted(one["name"], one["dtype"], _fixed(one["shape"], low.get(one["name"])))
            for one in inputs
        )

    def bind(self, inputs: Mapping[str, Array]) -> None:
        """Copy the inputs to page-locked memory."""
        self._runner.bind(inputs)

    def run(self) -> float:
        """One inference by the clock of the GPU, without the copies."""
        return self._runner.step().compute_ms

    def outputs(self) -> list[Array]:
        """Copies of the outputs."""
        return list(self._runner.outputs().values())

    def close(self) -> None:
        """Free the engine and the GPU's context."""
        self._runner.close()
        self._cuda.close()


def open_runtime(path: Path, *, trust: bool = False) -> Runtime:
    """The runtime of an ONNX or an engine; ``trust`` lets an engine run code that it carries.

    Raises:
        MeasureError: it cannot run here.
    """
    return TensorRT(path, trust=trust) if path.suffix == ".engine" else OnnxRuntime(path)


def onnx_gpu() -> bool:
    """Whether this ONNX Runtime was built for CUDA, and there is a GPU for it."""
    try:
        import onnxruntime as ort

        if _CUDA not in ort.get_available_providers():
            return False
        Cuda().close()
    except (ImportError, MeasureError):
        return False
    return True


def feed(wanted: Sequence[Wanted], arrays: Sequence[Array]) -> dict[str, Array]:
    """Arrays in the model's order as an artifact wants them, by its names and in its dtypes."""
    return {
        one.name: np.ascontiguousarray(array, np.dtype(one.dtype))
        for one, array in zip(wanted, arrays, strict=True)
    }


def _fixed(shape: Sequence[int], low: Sequence[int] | None) -> int | None:
    if not shape:
        return None
    return int(shape[0]) if shape[0] >= 0 else max(1, int(low[0])) if low else None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
