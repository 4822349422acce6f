"""Shipping a build: one file with everything that a device needs, and every byte of it checked.

Nothing here imports torch; making a bundle and unpacking it need neither a GPU nor ONNX.
"""

from __future__ import annotations

from .create import create
from .manifest import MANIFEST, Manifest
from .scan import GIB, Limits, scan
from .unpack import unpack

__all__ = ["GIB", "MANIFEST", "Limits", "Manifest", "create", "scan", "unpack"]
