"""Real inputs from a file, cut into feeds of one inference each, and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deployfold.errors import UsageError
from deployfold.runtimes.protocol import Array

Feed = tuple[torch.Tensor, ...]


def load_feeds(
    path: Path,
    names: Sequence[str],
    shapes: Sequence[Sequence[int]],
    dtypes: Sequence[str],
) -> tuple[Feed, ...]:
    """Read samples and cut them into feeds of the batch size that ``shapes`` begin with.

    Args:
        path: an ``.npy`` file for a model with one input, or an ``.npz`` file with one array an
            input, by name. The first axis of every array counts the samples. Samples that do not
            fill a feed are left out: a file exported with a fixed batch could not run them.
        names, shapes, dtypes: of the model's inputs, the batch axis first.

    Raises:
        UsageError: the file cannot be read, an array is missing, or a shape does not fit.
    """
    arrays = _arrays(path, names)
    batch = shapes[0][0]
    counts = {len(array) for array in arrays}
    if len(counts) > 1:
        raise UsageError(f"The arrays of {path} have different numbers of samples: {counts}.")
    for name, array, shape in zip(names, arrays, shapes, strict=True):
        if tuple(array.shape[1:]) != tuple(shape[1:]) or shape[0] != batch:
            raise UsageError(
                f"The samples of {name!r} in {path} have the shape {_written(array.shape[1:])},"
                f" and the model takes {_written(shape)} with the batch in front.",
                hint="Preprocess the data to that shape, or name another shape with --input.",
            )
    feeds = len(arrays[0]) // batch
    if feeds == 0:
        raise UsageError(
            f"{path} holds {len(arrays[0])} samples, and one inference takes {batch}.",
            hint="Give more samples, or a smaller batch with --input.",
        )
    tensors = [
        torch.from_numpy(array[: feeds * batch]).to(getattr(torch, dtype))
        for array, dtype in zip(arrays, dtypes, strict=True)
    ]
    starts = range(0, feeds * batch, batch)
    return tuple(tuple(tensor[at : at + batch] for tensor in tensors) for at in starts)


def load_labels(path: Path) -> tuple[int, ...]:
    """Read class indices, counted from 0: an ``.npy`` of integers, or a text with one a line.

    Raises:
        UsageError: the file cannot be read or holds something else.
    """
    hint = "Write one class index a line, or an .npy array of integers."
    if path.suffix == ".npy":
        array = _load(path)
        if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.integer):
            raise UsageError(f"{path} holds no integers.", hint=hint)
        return tuple(int(value) for value in array.reshape(-1))
    try:
        return tuple(int(word) for word in path.read_text(encoding="utf-8").split())
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{path} is no list of class indices.", hint=hint) from error


def _arrays(path: Path, names: Sequence[str]) -> list[Array]:
    loaded = _load(path)
    if isinstance(loaded, np.ndarray):
        if len(names) != 1:
            raise UsageError(
                f"{path} is one array, and the model takes {len(names)} inputs.",
                hint=f"Write an .npz with the arrays {', '.join(names)}.",
            )
        found = [loaded]
    else:
        with loaded:
            missing = [name for name in names if name not in loaded.files]
            if missing:
                raise UsageError(
                    f"{path} has no array {missing[0]!r}.",
                    hint=f"It has {', '.join(loaded.files) or 'none'}.",
                )
            try:
                found = [loaded[name] for name in names]
            except ValueError as error:
                raise UsageError(f"{path} cannot be read: {error}.") from error
    if any(array.ndim == 0 or array.dtype.kind not in "biuf" for array in found):
        raise UsageError(f"{path} holds no samples of numbers.")
    return found


def _load(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)  # a pickle could run code
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, EOFError) as error:
        raise UsageError(
            f"{path} is no NumPy file of numbers.",
            hint="Write it with numpy.save or numpy.savez.",
        ) from error


def _written(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "()"
