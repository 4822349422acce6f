"""What ``deployfold run`` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from deployfold.compile.runtime import CudaGraph
from deployfold.run_outputs import Output
from deployfold.spec import InputSpec


@dataclass(frozen=True, eq=False)
class Result:
    """What an inference was run on, in what, and what came out.

    Attributes:
        runtime: ``ONNX Runtime (CPUExecutionProvider)``.
        inputs: as they were given to the model, in its order.
        data: for each input where its values are from: a file, or ``seeded random``.
        outputs: what there is to say of each.
        arrays: their values, by name.
        placement: what of an ONNX ran in another provider than the CPU's.
        graph: how an engine's work was launched.
    """

    artifact: str
    runtime: str
    inputs: InputSpec
    data: tuple[str, ...]
    outputs: tuple[Output, ...]
    arrays: dict[str, NDArray[Any]]
    placement: str | None = None
    graph: CudaGraph | None = None
