"""Bundles: one file with everything that a device needs of a build, and every byte checked.

Nothing here imports torch. Making and unpacking a bundle needs neither a GPU nor the package onnx.
"""

from __future__ import annotations

from .create import create
from .manifest import MANIFEST, Manifest
from .scan import GIB, Limits, scan
from .unpack import unpack

__all__ = ["GIB", "MANIFEST", "Limits", "Manifest", "create", "scan", "unpack"]
