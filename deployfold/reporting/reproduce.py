"""The commands that build the same again."""

from __future__ import annotations

import shlex

from . import text
from .report import Report

_PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "tensorrt-rtx", "tensorrt")
"""What a build depends on, in the order of the command; only those that the report names."""


def build_command(report: Report) -> str | None:
    """The ``deployfold build`` of the report; ``None`` where the report does not hold it."""
    if report.options is None:
        return None
    words = ["deployfold", "build", text.clean(report.source.path)]
    for key, value in report.options.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not False:
                words += [f"--{key}"] if one is True else [f"--{key}", text.clean(str(one))]
    return shlex.join(words)


def install_command(report: Report) -> str:
    """The ``pip install`` of deployfold and of the packages that made the artifacts."""
    found = report.environment.packages
    versions = {"deployfold": report.deployfold_version}
    versions |= {name: found[name] for name in _PACKAGES if name in found}
    # A local version, such as 2.6.0+cu124, is not on the public index.
    pins = [f"{name}=={text.clean(one).split('+')[0]}" for name, one in versions.items()]
    return shlex.join(["pip", "install", *pins])
