"""ONNX files: their parts on disk, their graphs and dtypes, and ONNX Runtime's session of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .files import sha256


def data_path(path: Path) -> Path:
    """The file with the external weights of the ONNX file ``path``, as deployfold names it."""
    return path.with_name(f"{path.name}.data")


def onnx_files(path: Path) -> tuple[Path, ...]:
    """The ONNX file ``path``, and the file with its external weights if there is one."""
    data = data_path(path)
    return (path, data) if data.is_file() else (path,)


def onnx_sha256(path: Path) -> str:
    """Hex SHA-256 of the ONNX file and its external data."""
    return sha256(*onnx_files(path))


def onnx_bytes(path: Path) -> int:
    """Size on disk: the ONNX file and its external data."""
    return sum(file.stat().st_size for file in onnx_files(path))


def read_graph(path: Path) -> Any:
    """The ``GraphProto`` of an ONNX file, without its external weights."""
    import onnx

    return onnx.load(str(path), load_external_data=False).graph


def graph_inputs(graph: Any) -> list[Any]:
    """The inputs of a graph, without the weights that older files list among them."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def dims_of(value: Any) -> list[int | str]:
    """The axes of an input or output: a size, or a symbol, which may be empty."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims]


def dtype_of(value: Any) -> str:
    """numpy's name of the dtype of an input or output."""
    from onnx import helper

    return str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def numpy_name(declared: str) -> str:
    """numpy's name of the dtype that ONNX Runtime declares: ``float32`` for ``tensor(float)``."""
    inner = declared.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(inner, inner)


def float_name(declared: str) -> str | None:
    """The same for floats that numpy and torch both have; ``None`` for other types."""
    name = numpy_name(declared)
    return name if name in ("float16", "float32", "float64") else None


def cpu_session(path: Path) -> Any:
    """ONNX Runtime's session of a file on the CPU, which prints nothing: exceptions have it all."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    # The fallback would print to stdout, and try the same again.
    providers = ["CPUExecutionProvider"]
    return ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
