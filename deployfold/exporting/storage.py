"""An ONNX file, and its external data where it has some, that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from deployfold.util.files import temporary_directory

EXTERNAL_DATA_BYTES = int(1.8 * 2**30)
"""Weights above this go to a file of their own: protobuf ends at 2 GiB, the graph needs room."""

SCRATCH_THRESHOLD = 0
"""The same of files for ONNX Runtime alone, which maps weights of their own file into memory, and
holds those of a graph up to three times while it loads it."""


def weights_bytes(model: ir.Model) -> int:
    """Bytes of all initialisers, those of subgraphs included."""
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def data_path(path: Path) -> Path:
    """The file that holds the weights of the ONNX file ``path`` where they are external."""
    return path.with_name(f"{path.name}.data")


def onnx_bytes(path: Path) -> int:
    """Size on disk: the ONNX file and its external data."""
    data = data_path(path)
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def write_model(model: ir.Model, path: Path, *, threshold: int = EXTERNAL_DATA_BYTES) -> bool:
    """Write ``model``; weights of more than ``threshold`` bytes go to :func:`data_path`.

    Not atomic: write into :func:`staged` to make it so. Returns whether the data is external.
    """
    external = weights_bytes(model) > threshold
    ir.save(model, path, external_data=data_path(path).name if external else None)
    return external


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary directory beside; move what is there at the end.

    The name must be the final one, since an ONNX file refers to its external data by name.
    Nothing at ``path`` changes if the block fails. An older external data file goes.

    Raises:
        UsageError: the directory cannot be written to, or the disk is full.
    """
    with temporary_directory(path) as directory:
        temporary = directory / path.name
        yield temporary
        for file in (temporary, data_path(temporary)):
            if file.exists():
                _sync(file)
        # A new graph must never meet old weights: the old graph goes before the weights change.
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
