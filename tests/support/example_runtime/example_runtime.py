"""A package of a third party that brings a runtime: linear models in a NumPy file, ``.affine.npz``.

Its record is what ``deployfold.runtimes`` in ``entry_points.txt`` names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployfold.config.inputs import InputSpec
from deployfold.errors import MeasureError
from deployfold.runtimes import RunSettings, Runtime
from deployfold.runtimes.inputs import StatedInput, fill
from deployfold.runtimes.protocol import Inputs, Step


class AffineRunner:
    """Computes ``x @ weight + bias`` with the arrays of the file."""

    key = "affine"
    title = "Affine"
    variant = ""
    output_names = ("y",)

    def __init__(self, path: Path, settings: RunSettings) -> None:
        self.settings = settings
        self._path = path
        self._arrays: dict[str, NDArray[Any]] = {}

    def load(self) -> None:
        """Read the arrays."""
        try:
            with np.load(self._path, allow_pickle=False) as arrays:
                self._arrays = {name: arrays[name] for name in ("weight", "bias")}
        except (OSError, ValueError, KeyError) as error:
            raise MeasureError(f"{self._path.name} cannot be loaded: {error}.") from error

    def inputs(self, asked: InputSpec | None = None) -> InputSpec:
        """One input with as many columns as the weight has rows."""
        self.load()
        columns = len(self._arrays["weight"])
        stated = StatedInput("x", "float32", (None, columns), (1, columns), (1, columns))
        return fill([stated], asked, self._path.name)

    def prepare(self, inputs: Inputs) -> Step:
        """Keep a copy of the input."""
        values = [np.array(value) for value in inputs]

        def step() -> None:
            self.run(values)

        return step

    def run(self, inputs: Inputs) -> tuple[NDArray[Any], ...]:
        """The product."""
        if not self._arrays:
            raise MeasureError(f"{self._path.name} is not loaded.")
        (x,) = inputs
        return (np.asarray(x) @ self._arrays["weight"] + self._arrays["bias"],)

    def close(self) -> None:
        """Drop the arrays."""
        self._arrays = {}


AFFINE = Runtime(
    key="affine",
    title="Affine",
    suffixes=(".affine.npz",),
    module="numpy",
    install="pip install numpy",
    open=AffineRunner,
    needs_torch=False,
    states_inputs=True,
)

NOT_A_RUNTIME = "a string"
CLASH = Runtime("other", "Other", (".onnx",), "numpy", "pip install numpy", AffineRunner)
