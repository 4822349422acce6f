"""Two forms of one model compared layer by layer: which is the first that departs?"""

from __future__ import annotations

from .run import compare_files

__all__ = ["compare_files"]
