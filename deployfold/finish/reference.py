"""``reference.npz``: one inference of the original model, to compare a device's outputs with.

Reading the file needs NumPy and no other package.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deployfold.util.arrays import Array
from deployfold.util.files import atomic_path

REFERENCE_NPZ = "reference.npz"


def write_reference(path: Path, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
    """Write the arrays of one inference, in the model's order, as ``input_0`` … ``output_0`` ….

    Raises:
        UsageError: the file cannot be written.
    """
    arrays = {f"input_{index}": np.asarray(value) for index, value in enumerate(inputs)}
    arrays |= {f"output_{index}": np.asarray(value) for index, value in enumerate(outputs)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # no array is named allow_pickle


def read_reference(path: Path) -> tuple[list[Array], list[Array]]:
    """Read the inputs and the outputs, in the model's order.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:  # a pickle could run code
            inputs, outputs = (
                [
                    arrays[f"{side}_{index}"]
                    for index in range(sum(name.startswith(side) for name in arrays.files))
                ]
                for side in ("input", "output")
            )
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    return inputs, outputs
