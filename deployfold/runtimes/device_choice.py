"""Chooses the device of a table with PyTorch, which no file of a bundle may import; sets TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from deployfold.config.flag_values import read_device
from deployfold.errors import UsageError

from .device import CPU, gpu_index


def resolve_device(text: str) -> str | None:
    """The device for a value of ``--device``: ``cpu``, or a GPU such as ``cuda:0``.

    ``auto`` gives the first GPU that PyTorch can use. Without such a GPU, ``auto`` gives ``None``:
    PyTorch then runs on the CPU, and an engine on the first GPU of CUDA, if there is one.

    Raises:
        UsageError: the text is not a device, or PyTorch cannot use that GPU.
    """
    word = read_device(text)
    if word == CPU:
        return CPU
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if word == "auto":
        return "cuda:0" if count else None
    index = gpu_index(word)
    if index >= count:
        found = f"PyTorch finds {count} here" if count else "PyTorch finds no GPU that it can use"
        raise UsageError(
            f"There is no GPU {word} for the rows to run on: {found}.",
            hint="Remove --device, or run deployfold doctor.",
        )
    return f"cuda:{index}"


@contextmanager
def torch_tf32(allowed: bool) -> Iterator[None]:
    """Set whether torch rounds fp32 operands to TF32 on a GPU, within the block.

    By default, torch does so in convolutions but not in matrix products; TensorRT does so in both.
    """
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
