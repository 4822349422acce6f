"""Converts models to float32 if their dtype is unsupported by engines or slow on CPUs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from deployfold.config.inputs import InputSpec

from .checks import dtype_notes
from .model import LoadedModel

_NOTES = {
    torch.bfloat16: "The bfloat16 weights were converted to float32, which represents them "
    "exactly; --bf16 builds in bfloat16.",
    torch.float16: "The float16 weights were converted to float32, which represents them "
    "exactly; --fp16 builds in float16.",
    torch.float64: "The float64 weights were rounded to float32: TensorRT does not compute in "
    "float64.",
}


def in_single_precision(
    loaded: LoadedModel, requested: InputSpec | None
) -> tuple[LoadedModel, InputSpec | None]:
    """Convert other float types of a model, and of its ``requested`` inputs, to float32.

    float16 is converted if no parameter is float32, as in the checkpoints of detectors: a CPU
    computes float16 far slower than float32. A float16 part of a float32 model stays. TorchScript
    and ``.pt2`` stay unchanged, because their dtypes are part of the code.

    Returns:
        The model and the inputs. The module is changed in place, and the notes list the changes.
    """
    replaced = _replaced(loaded.module)
    if loaded.compiled or not replaced:
        return loaded, requested
    kept = dtype_notes(loaded.module)
    for tensor in (*loaded.module.parameters(), *loaded.module.buffers()):
        if tensor.dtype in replaced:
            tensor.data = tensor.data.float()
    notes = [note for note in loaded.notes if note not in kept]
    notes += [sentence for dtype, sentence in _NOTES.items() if dtype in replaced]
    names = [str(dtype).removeprefix("torch.") for dtype in replaced]
    converted = [one for one in requested.tensors if one.dtype in names] if requested else []
    if requested is not None and converted:
        notes[-1] += f" The input {converted[0]} is float32, too."
        tensors = tuple(
            replace(one, dtype="float32") if one in converted else one for one in requested.tensors
        )
        requested = replace(requested, tensors=tensors)
    return replace(loaded, notes=tuple(notes)), requested


def _replaced(module: nn.Module) -> set[torch.dtype]:
    """The dtypes of parameters that are converted to float32."""
    found = {one.dtype for one in module.parameters() if one.is_floating_point()}
    return (found & set(_NOTES)) - ({torch.float16} if torch.float32 in found else set())
