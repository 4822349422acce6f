"""TorchScript archives.

TorchScript is a program, in a language that cannot reach Python. It can reach files, though, and
the operators of libraries that are loaded; an archive whose code does is refused unless trusted.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path

import torch

from deployfold.errors import LoadError

_REACHES_OUT = re.compile(
    r"\b(torch\.(?:save|from_file|load)\b|ops\.(?!prim\b|aten\b|torchvision\b|quantized\b)\w+\.\w+)"
)


def load_torchscript(path: Path, *, trust: bool) -> torch.jit.ScriptModule:
    """Load an archive on the CPU, in evaluation mode.

    Raises:
        LoadError: it is damaged, or its code reaches files and ``trust`` was not given.
    """
    if not trust:
        _inspect(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise LoadError(
            f"{path} cannot be loaded as TorchScript: {(lines or ['unknown reason'])[0]}",
            hint="It may be damaged, or use operators of a library that is not loaded.",
        ) from error
    return module.eval()


def _inspect(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            if "/code/" in entry and entry.endswith(".py"):
                found = _REACHES_OUT.search(archive.read(entry).decode("utf-8", "replace"))
                if found:
                    raise LoadError(
                        f"The TorchScript code calls {found.group(1)}, which reaches outside it.",
                        hint="If you trust its author, --trust loads it all the same.",
                    )
