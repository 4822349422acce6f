"""AOTInductor packages (``.aoti.pt2``): a model compiled ahead of time, run by torch or from C++.

A package contains native code and the weights. Loading it runs that code, so the runner requires
``--trust``. The code does not check its inputs, and reads past the end of a buffer that is too
small. So the exporter writes the inputs into the package's metadata, and the runner checks them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployfold.errors import MeasureError, UsageError

from .device import is_gpu
from .inputs import StatedInput, check_count, check_shapes, fill
from .runtime import Runtime, Shipping
from .torch_runner import TorchFileRunner

if TYPE_CHECKING:
    from deployfold.config.inputs import InputSpec
    from deployfold.util.arrays import Array

    from .protocol import Inputs, Step

METADATA_KEY = "deployfold.inputs"
"""The metadata property with the inputs, in the form of :func:`inputs_to_json`."""
_METADATA_FILE = "wrapper_metadata.json"


class AotInductorRunner(TorchFileRunner):
    """An AOTInductor package."""

    key = "aot_inductor"
    title = "AOTInductor"

    def inputs(self, asked: InputSpec | None = None) -> InputSpec:
        """The inputs according to the package's metadata, read without running the package.

        Raises:
            MeasureError: the file is not a package.
            UsageError: the package has no such input, or its metadata does not list the inputs.
        """
        stated = stated_inputs(self._path)
        if stated is None:
            if asked is None:
                raise UsageError(
                    f"{self._path.name} does not list its inputs.",
                    hint="Add --input for each, for example --input 1x3x224x224.",
                )
            return asked
        spec = fill(stated, asked, self._path.name)
        check_shapes(spec, stated, self._path.name)
        return spec

    def prepare(self, inputs: Inputs) -> Step:
        """Prepare one call, after checking the inputs against the package's metadata."""
        self._check(inputs)
        return super().prepare(inputs)

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        """Run one call, after checking the inputs against the package's metadata."""
        self._check(inputs)
        return super().run(inputs)

    def _read(self) -> Callable[..., Any]:
        if not self.settings.trust:
            raise MeasureError(
                f"{self._path.name} contains native code, which loading runs; --trust allows it.",
                hint="If you trust its author, add --trust.",
            )
        compiled_for = str(_metadata(self._path).get("AOTI_DEVICE_KEY", "cpu"))
        if self.settings.device is None and compiled_for == "cuda":
            self._device = "cuda:0"
        if (compiled_for == "cuda") != is_gpu(self._device):
            raise MeasureError(
                f"{self._path.name} was compiled for {compiled_for}, but the rows run on "
                f"{self._device}."
            )
        import torch

        package: Callable[..., Any] = torch._inductor.aoti_load_package(str(self._path))
        return package

    def _check(self, inputs: Inputs) -> None:
        stated = stated_inputs(self._path)
        if stated is None:
            return
        check_count(self._path.name, len(stated), len(inputs))
        for one, value in zip(stated, inputs, strict=True):
            shape = tuple(int(size) for size in value.shape)
            dtype = str(value.dtype).removeprefix("torch.")
            if not one.contains(shape) or dtype != one.dtype:
                raise MeasureError(
                    f"{self._path.name} takes {one.name!r} as {one}, but "
                    f"{'x'.join(map(str, shape)) or 'a scalar'} {dtype} was given."
                )


def inputs_to_json(inputs: InputSpec) -> str:
    """The inputs with dtypes and the range of every axis as JSON, for the package's metadata."""
    stated = []
    for name, tensor, axes in zip(inputs.names, inputs.tensors, inputs.dynamic_axes, strict=True):
        low = [axes[axis][0] if axis in axes else size for axis, size in enumerate(tensor.shape)]
        high = [axes[axis][1] if axis in axes else size for axis, size in enumerate(tensor.shape)]
        stated.append(
            {"name": name, "dtype": tensor.dtype, "min": low, "usual": tensor.shape, "max": high}
        )
    return json.dumps(stated)


def stated_inputs(path: Path) -> tuple[StatedInput, ...] | None:
    """The inputs in a package's metadata; ``None`` if another program wrote the package.

    Raises:
        MeasureError: the file is not a package, or its metadata is damaged.
    """
    try:
        metadata = _metadata(path)
        if METADATA_KEY not in metadata:
            return None
        return tuple(
            StatedInput(
                name=one["name"],
                dtype=one["dtype"],
                shape=tuple(
                    low if low == high else None
                    for low, high in zip(one["min"], one["max"], strict=True)
                ),
                smallest=tuple(one["min"]),
                usual=tuple(one["usual"]),
                largest=tuple(one["max"]),
            )
            for one in json.loads(metadata[METADATA_KEY])
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise MeasureError(
            f"{path.name} cannot be loaded: it is not an AOTInductor package."
        ) from error


def _metadata(path: Path) -> dict[str, Any]:
    """The metadata properties that the exporter and torch wrote into the package."""
    with zipfile.ZipFile(path) as archive:
        name = next((one for one in archive.namelist() if one.endswith(_METADATA_FILE)), None)
        found = {} if name is None else json.loads(archive.read(name))
    return found if isinstance(found, dict) else {}


def missing_compiler(what: str = "AOTInductor") -> str | None:
    """Why ``what`` cannot compile C++ here, in one sentence; ``None`` if there is a compiler.

    torch uses the compiler in the environment variable ``CXX``. The default is ``g++``, on macOS
    ``clang++`` and on Windows ``cl``.
    """
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    command = os.environ.get("CXX") or usual
    if shutil.which(command.split()[0]) is not None:
        return None
    return (
        f"{what} compiles C++, but there is no {command} here. Install a compiler (apt install "
        "g++), or set CXX to another one."
    )


AOT_INDUCTOR = Runtime(
    key="aot_inductor",
    title="AOTInductor",
    suffixes=(".aoti.pt2",),
    module="torch",
    install="pip install torch",
    open=AotInductorRunner,
    states_inputs=True,
    missing=missing_compiler,
    shipping=Shipping("aot_inductor"),
)
