"""Engines: which GPU, which library, and the build itself in a subprocess of its own.

Nothing here imports TensorRT or another heavy library; the worker does.
"""

from __future__ import annotations

from deployfold.engine_options import EngineOptions
from deployfold.shapes import InputShapes

from .compilers import Compiler, compiler_for
from .engine import compile_engine
from .machine import Machine, detect
from .plan import plan_engines
from .request import (
    EngineArtifact,
    EngineRequest,
    LayerCounts,
    NoEngine,
    optimization_profiles,
)
from .targets import load_targets, resolve

__all__ = [
    "Compiler",
    "EngineArtifact",
    "EngineOptions",
    "EngineRequest",
    "InputShapes",
    "LayerCounts",
    "Machine",
    "NoEngine",
    "compile_engine",
    "compiler_for",
    "detect",
    "load_targets",
    "optimization_profiles",
    "plan_engines",
    "resolve",
]
