"""Engines: which GPU, which library, and the build itself in a process of its own.

Each library has a folder: ``compile.py`` runs in this process and starts the worker; ``builder.py``
runs in the worker and is the only one to import TensorRT.
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
