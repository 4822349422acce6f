"""The settings with which a build runs its artifacts."""

from __future__ import annotations

from deployfold.config.build_spec import BuildSpec
from deployfold.measuring.environment import default_threads
from deployfold.runtimes import RunSettings
from deployfold.runtimes.device_choice import resolve_device


def run_settings(spec: BuildSpec) -> RunSettings:
    """The settings of every row. The files are trusted, because the build made them.

    Raises:
        UsageError: PyTorch cannot use the GPU that ``spec.device`` names.
    """
    return RunSettings(
        threads=spec.threads or default_threads(),
        device=resolve_device(spec.device),
        tf32=spec.options.tf32,
        cuda_graph=spec.cuda_graph,
        trust=True,
    )
