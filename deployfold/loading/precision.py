"""Models whose dtype no engine computes in, or ONNX Runtime cannot check on a CPU."""

from __future__ import annotations

from dataclasses import replace

import torch

from deployfold.config.spec import InputSpec

from .model import LoadedModel

_NOTES = {
    torch.bfloat16: "The bfloat16 weights are computed in float32, which holds each of them "
    "exactly; --bf16 builds in bfloat16.",
    torch.float64: "The float64 weights were rounded to float32: TensorRT does not compute in "
    "float64.",
}


def in_single_precision(
    loaded: LoadedModel, requested: InputSpec | None
) -> tuple[LoadedModel, InputSpec | None]:
    """Put float32 in place of bfloat16 and float64 in the model, and in its ``requested`` inputs.

    TorchScript and ``.pt2`` have their dtypes in the code, and stay as they are.

    Returns:
        Both; the model's notes say what was changed. The module is the same, changed in place.
    """
    found = {one.dtype for one in loaded.module.parameters()} & set(_NOTES)
    if loaded.kind in ("torchscript", "program") or not found:
        return loaded, requested
    # Not module.float(): a float16 part of a mixed model is meant, and stays.
    for tensor in (*loaded.module.parameters(), *loaded.module.buffers()):
        if tensor.dtype in _NOTES:
            tensor.data = tensor.data.float()
    if requested is not None:
        names = [str(dtype).removeprefix("torch.") for dtype in _NOTES]
        tensors = tuple(
            replace(one, dtype="float32") if one.dtype in names else one
            for one in requested.tensors
        )
        requested = replace(requested, tensors=tensors)
    # What was said of the dtype when it was loaded no longer holds.
    notes = [note for note in loaded.notes if not note.endswith("parameters; they are kept.")]
    said = [sentence for dtype, sentence in _NOTES.items() if dtype in found]
    return replace(loaded, notes=(*notes, *said)), requested
