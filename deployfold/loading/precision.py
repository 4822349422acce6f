"""Turns models into float32 whose dtype no engine computes in, or no CPU computes fast in."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from deployfold.config.inputs import InputSpec

from .model import LoadedModel

_NOTES = {
    torch.bfloat16: "The bfloat16 weights are computed in float32, which holds each of them "
    "exactly; --bf16 builds in bfloat16.",
    torch.float16: "The float16 weights are computed in float32, which holds each of them "
    "exactly; --fp16 builds in float16.",
    torch.float64: "The float64 weights were rounded to float32: TensorRT does not compute in "
    "float64.",
}
_KEPT = "parameters; they are kept."


def in_single_precision(
    loaded: LoadedModel, requested: InputSpec | None
) -> tuple[LoadedModel, InputSpec | None]:
    """Put float32 in place of other float types in a model, and in its ``requested`` inputs.

    float16 is replaced where all parameters have it, as in the checkpoints of detectors: a CPU
    computes float16 far slower than float32. A float16 part of a float32 model stays. TorchScript
    and ``.pt2`` have their dtypes in the code, and stay as they are.

    Returns:
        Both; the model's notes tell what was changed. The module is the same, changed in place.
    """
    replaced = _replaced(loaded.module)
    if loaded.kind in ("torchscript", "program") or not replaced:
        return loaded, requested
    for tensor in (*loaded.module.parameters(), *loaded.module.buffers()):
        if tensor.dtype in replaced:
            tensor.data = tensor.data.float()
    notes = [note for note in loaded.notes if not note.endswith(_KEPT)]
    notes += [sentence for dtype, sentence in _NOTES.items() if dtype in replaced]
    names = [str(dtype).removeprefix("torch.") for dtype in replaced]
    asked = [] if requested is None else [one for one in requested.tensors if one.dtype in names]
    if requested is not None and asked:
        notes[-1] += f" The input {asked[0]} is float32, too."
        tensors = tuple(
            replace(one, dtype="float32") if one in asked else one for one in requested.tensors
        )
        requested = replace(requested, tensors=tensors)
    return replace(loaded, notes=tuple(notes)), requested


def _replaced(module: nn.Module) -> set[torch.dtype]:
    """The dtypes of parameters that float32 takes the place of."""
    found = {one.dtype for one in module.parameters() if one.is_floating_point()}
    return (found & set(_NOTES)) - ({torch.float16} if torch.float32 in found else set())
