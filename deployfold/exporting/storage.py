"""Writes an ONNX file and its external data, completely or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from deployfold.util.files import temporary_directory
from deployfold.util.onnx_files import data_path

EXTERNAL_DATA_BYTES = int(1.8 * 2**30)
"""Bytes of weights above which they go to a second file. Protobuf's limit is 2 GiB, and the graph
needs space too."""

SCRATCH_THRESHOLD = 0
"""The limit for files that only ONNX Runtime reads. ONNX Runtime memory-maps external data, but
keeps up to three copies of the weights inside a graph while it loads it."""


def weights_bytes(model: ir.Model) -> int:
    """Bytes of all initialisers, with those of subgraphs."""
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


@contextmanager
def scratch_file(model: ir.Model) -> Iterator[Path]:
    """Yield a temporary file with ``model``, which only ONNX Runtime reads."""
    with tempfile.TemporaryDirectory(prefix="deployfold-") as folder:
        path = Path(folder) / "model.onnx"
        write_model(model, path, threshold=SCRATCH_THRESHOLD)
        yield path


def write_model(model: ir.Model, path: Path, *, threshold: int = EXTERNAL_DATA_BYTES) -> bool:
    """Write ``model``; weights of more than ``threshold`` bytes go to :func:`data_path`.

    The write is not atomic unless ``path`` comes from :func:`staged`.

    Returns:
        Whether the weights are external.
    """
    external = weights_bytes(model) > threshold
    ir.save(model, path, external_data=data_path(path).name if external else None)
    return external


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary directory, and move the files at the end.

    The name must be final, because an ONNX file refers to its external data by name. If the block
    fails, the files at ``path`` stay unchanged. An older external data file is removed.

    Raises:
        UsageError: the directory cannot be written to, or the disk is full.
    """
    with temporary_directory(path) as directory:
        temporary = directory / path.name
        yield temporary
        for file in (temporary, data_path(temporary)):
            if file.exists():
                _sync(file)
        # Remove the old graph first, so that a graph never refers to the weights of another one.
        if data_path(path).exists() or data_path(temporary).exists():
            path.unlink(missing_ok=True)
            data_path(path).unlink(missing_ok=True)
        if data_path(temporary).exists():
            data_path(temporary).replace(data_path(path))
        temporary.replace(path)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
