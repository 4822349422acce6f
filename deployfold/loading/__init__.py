"""Loads models from every supported source; a checkpoint runs no code without permission."""

from __future__ import annotations

from .arguments import with_arguments, with_plain_outputs
from .inputs import make_inputs, resolve_inputs
from .load import load_model
from .model import LoadedModel
from .single_precision import in_single_precision

__all__ = [
    "LoadedModel",
    "in_single_precision",
    "load_model",
    "make_inputs",
    "resolve_inputs",
    "with_arguments",
    "with_plain_outputs",
]
