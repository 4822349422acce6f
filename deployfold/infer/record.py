"""What ``deployfold run --json`` prints."""

from __future__ import annotations

from deployfold.reporting.fields import Count, Frozen
from deployfold.reporting.row import CudaGraph

from .outputs import Output, Result


class RunInput(Frozen):
    """An input; ``data`` is a file, or ``seeded random``."""

    name: str | None
    shape: tuple[Count, ...]
    dtype: str
    data: str


class RunRecord(Frozen):
    """One inference.

    Attributes:
        placement: which nodes of an ONNX another provider than the CPU's ran.
        cuda_graph: how an engine's work was launched; ``None`` for other files.
    """

    artifact: str
    runtime: str
    placement: str | None = None
    cuda_graph: CudaGraph | None = None
    inputs: tuple[RunInput, ...]
    outputs: tuple[Output, ...]

    @classmethod
    def of(cls, result: Result) -> RunRecord:
        """The record of an inference."""
        inputs = zip(result.inputs.names, result.inputs.tensors, result.data, strict=True)
        graph = result.graph
        return cls(
            artifact=result.artifact,
            runtime=result.runtime,
            placement=result.placement,
            cuda_graph=None if graph is None else CudaGraph.model_validate(graph),
            inputs=tuple(
                RunInput(name=name, shape=tensor.shape, dtype=tensor.dtype, data=data)
                for name, tensor, data in inputs
            ),
            outputs=result.outputs,
        )
