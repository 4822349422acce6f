"""A file that is the head of a model, and the tail that ONNX Runtime runs behind it.

``NAME.head.fp16.sm_89.engine`` and every other file with ``.head.`` in its name needs
``NAME.tail.onnx`` beside it. The two together take the model's inputs and give its outputs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deployfold.errors import MeasureError

from .inputs import as_array
from .layer_times import Profile
from .onnxruntime import OnnxRuntimeRunner
from .settings import RunSettings
from .tail_name import PASSED, tail_name

if TYPE_CHECKING:
    from deployfold.config.inputs import InputSpec
    from deployfold.util.arrays import Array

    from .protocol import Inputs, Step


def with_tail(runner: Any, path: Path) -> Any:
    """The runner of ``path``, with the tail behind it where the file is a head."""
    name = tail_name(path.name)
    return runner if name is None else TailedRunner(runner, path.with_name(name))


class TailedRunner:
    """A head in its own runtime, then the tail in ONNX Runtime on the CPU.

    The time of a step is that of both, by the host's clock, with the copies between them. What the
    head's runner has beyond the protocol, such as ``device_name``, is passed on.
    """

    def __init__(self, head: Any, tail: Path) -> None:
        self._head = head
        self._path = tail
        self.settings: RunSettings = head.settings
        threads = RunSettings(threads=head.settings.threads)
        self._tail = OnnxRuntimeRunner(tail, threads)
        self._times: list[tuple[float, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._head, name)

    @property
    def title(self) -> str:
        """``TensorRT, then ONNX Runtime (CPUExecutionProvider)``."""
        return f"{self._head.title}, then {self._tail.title}"

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the model's outputs; known when it is loaded."""
        return self._tail.output_names

    @property
    def part_notes(self) -> tuple[str, ...]:
        """The median times of the two parts; known after some steps."""
        if not self._times:
            return ()
        head, tail = (1e3 * statistics.median(part) for part in zip(*self._times, strict=True))
        return (f"head {head:.3g} ms, tail {tail:.3g} ms (medians of {len(self._times)} calls)",)

    def load(self) -> None:
        """Load both parts.

        Raises:
            MeasureError: a part is missing, or cannot run here.
        """
        if not self._path.is_file():
            raise MeasureError(
                f"There is no {self._path.name}, which runs behind this file.",
                hint="Copy it beside the file from the folder of the build.",
            )
        self._head.load()
        self._tail.load()

    def prepare(self, inputs: Inputs) -> Step:
        """Copy the inputs; each step is one inference of both parts."""
        arrays = [np.array(as_array(value)) for value in inputs]

        def step() -> None:
            begin = time.perf_counter()
            between = self._head.run(arrays)
            middle = time.perf_counter()
            self._run_tail(arrays, between)
            self._times.append((middle - begin, time.perf_counter() - middle))

        return step

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        """One inference; the outputs of the model in their order."""
        return self._run_tail(inputs, self._head.run(inputs))

    def run_head(self, inputs: Inputs) -> tuple[Array, ...]:
        """One inference of the head alone; what it gives to the tail, in its order."""
        made: tuple[Array, ...] = self._head.run(inputs)
        return made

    def inputs(self, asked: InputSpec | None = None) -> InputSpec:
        """The inputs of the head, which are those of the model."""
        found: InputSpec = self._head.inputs(asked)
        return found

    def close(self) -> None:
        """Give the memory of both back."""
        self._head.close()
        self._tail.close()

    def profile(self, inputs: Inputs, calls: int) -> Profile:
        """The layers of the head, then those of the tail, whose names begin with ``tail:``.

        Raises:
            MeasureError: a runtime cannot tell the times here.
        """
        head: Profile = self._head.profile(inputs, calls)
        behind = self._tail.profile(self._for_tail(inputs, self._head.run(inputs)), calls)
        layers = tuple(replace(one, name=f"tail: {one.name}") for one in behind.layers)
        return Profile((*head.layers, *layers), head.details)

    def _run_tail(self, inputs: Inputs, between: Sequence[Array]) -> tuple[Array, ...]:
        return self._tail.run(self._for_tail(inputs, between))

    def _for_tail(self, inputs: Inputs, between: Sequence[Array]) -> list[Array]:
        """The inputs of the tail, of those of the model and of what the head gave."""
        given = dict(zip((one.name for one in self._head.stated), inputs, strict=True))
        made = dict(zip(self._head.output_names, between, strict=True))
        names = [one.name for one in self._tail.stated]
        values = []
        for name in names:
            value = made.get(name.removesuffix(PASSED), given.get(name))
            if value is None:
                raise MeasureError(
                    f"{self._path.name} takes {name!r}, which the file before it does not give.",
                    hint="Take both files from one build.",
                )
            values.append(as_array(value))
        return values
