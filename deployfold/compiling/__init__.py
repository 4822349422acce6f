"""Engines: which GPU, which library, and the build itself in a subprocess of its own.

Nothing here imports TensorRT or another heavy library; the worker does.
"""

from __future__ import annotations

from deployfold.config.engine import EngineOptions
from deployfold.config.shapes import InputShapes
from deployfold.targets.catalogue import load_targets, resolve
from deployfold.targets.machine import Machine, detect

from .compilers import Compiler, compiler_for
from .engine import compile_engine
from .plan import plan_engines
from .request import EngineArtifact, EngineRequest, LayerCounts, NoEngine, optimization_profiles

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
