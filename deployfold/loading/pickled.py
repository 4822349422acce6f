"""Files that torch.save wrote: pickled modules and state dicts."""

from __future__ import annotations

import pickle
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from deployfold.errors import LoadError

from .importing import working_directory_importable
from .safe_globals import allowed_for


def load_pickle(path: Path, *, allow_globals: tuple[str, ...], trust: bool) -> Any:
    """Unpickle ``path`` on the CPU.

    Args:
        allow_globals: classes to allow beside those of known packages.
        trust: unpickle in full, which can run any code.

    Raises:
        LoadError: it is damaged, or uses a global that is not allowed.
    """
    allowed = [] if trust else allowed_for(path, allow_globals)
    # Trusted pickles import the user's own modules by name.
    importable = working_directory_importable() if trust else nullcontext()
    try:
        with warnings.catch_warnings(), importable, torch.serialization.safe_globals(allowed):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        raise LoadError(
            f"{path} was not unpickled: {_reason(error)}",
            hint="If you trust its author, --trust unpickles it in full. "
            "Safer: save model.state_dict(), or save the module again with a current torch.",
        ) from error
    except MemoryError as error:
        raise LoadError(f"{path} needs more memory than there is.") from error
    except Exception as error:  # unpickling meets whatever bytes, and whatever classes, there are
        raise LoadError(
            f"{path} cannot be loaded: {type(error).__name__}: {_reason(error)}",
            hint="It may be damaged, or written by another version of its package.",
        ) from error


def _reason(error: BaseException) -> str:
    text = str(error).rpartition("WeightsUnpickler error:")[2]
    if "persistent_load of storage" in text:
        return "it is a whole module in torch's format of before 2020, which cannot be restricted."
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]
