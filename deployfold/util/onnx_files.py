"""The files of an ONNX: the graph, and its external weights where they are too large for it."""

from __future__ import annotations

from pathlib import Path

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
