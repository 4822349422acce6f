"""Choosing the device of a table by what PyTorch can use here, and its precision for fp32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from deployfold.config.device import read_device
from deployfold.errors import UsageError

from .device import CPU


def resolve_device(text: str) -> str | None:
    """``cpu``, or a GPU such as ``cuda:0``, of what ``--device`` was given.

    ``auto`` is the first GPU where PyTorch can use one. Elsewhere it is ``None``: PyTorch runs on
    the CPU, and an engine on the GPU that it finds.

    Raises:
        UsageError: the text is not a device, or PyTorch cannot use such a GPU here.
    """
    word = read_device(text)
    if word == CPU:
        return CPU
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if word == "auto":
        return "cuda:0" if count else None
    index = int(word.partition(":")[2] or 0)
    if index >= count:
        have = f"PyTorch finds {count} here" if count else "PyTorch finds no GPU that it can use"
        raise UsageError(
            f"There is no GPU {word} for the rows to run on: {have}.",
            hint="Leave --device out, or see deployfold doctor.",
        )
    return f"cuda:{index}"


@contextmanager
def torch_tf32(allowed: bool) -> Iterator[None]:
    """Let torch round fp32 operands to TF32 on a GPU inside the block, or not; then as before.

    torch by itself does so in convolutions and not in matrix products, TensorRT in both.
    """
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
