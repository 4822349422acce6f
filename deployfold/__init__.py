"""deployfold: a trained PyTorch model in, a verified deployment out.

The Python API mirrors the command line: :func:`load`, :func:`fold`, :func:`export`, :func:`build`.
Importing this package imports neither torch nor any other heavy library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import build, export, fold, load

__all__ = ["__version__", "build", "export", "fold", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
