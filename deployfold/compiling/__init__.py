"""Builds engines: plans them by GPU and library, and builds each in its own process.

Each library has a folder. ``compile.py`` runs in this process and starts the worker; ``builder.py``
runs in the worker and is the only module that imports TensorRT.
"""

from __future__ import annotations

from deployfold.config.engine import EngineOptions
from deployfold.config.optimization_profiles import InputShapes
from deployfold.targets.catalogue import load_targets, resolve
from deployfold.targets.machine import Machine, detect

from .compiler_choice import CompilerChoice, compiler_for
from .planning import plan_engines
from .records import EngineArtifact, EngineRequest, LayerCounts, NoEngine, optimization_profiles
from .tensorrt.compile import compile_engine

__all__ = [
    "CompilerChoice",
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
