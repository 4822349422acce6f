"""The results of the stages fold and export."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from deployfold.config.precision import Precision
from deployfold.folding import FoldResult

from .artifact import Artifact


@dataclass(frozen=True, eq=False)
class Folded:
    """The folded model, and two artifacts: the original model and the folded one.

    The only artifact of a model that is an ONNX is the original: its export is the folded file.
    """

    result: FoldResult
    artifacts: tuple[Artifact, ...]

    def without_module(self) -> Folded:
        """The same without weights and outputs, for the stages that no longer run the models."""
        artifacts = tuple(replace(artifact, runner=None) for artifact in self.artifacts)
        proof = replace(self.result.verification, outputs=())
        return Folded(
            replace(self.result, model=torch.nn.Identity(), verification=proof), artifacts
        )


@dataclass(frozen=True, eq=False)
class Exported:
    """The exported formats of the folded model.

    Attributes:
        onnx: the fp32 ONNX, which everything behind is made from.
        program: the ``.pt2``; its ``path`` is ``None`` where there is none.
        artifacts: all formats, in the order of the table.
        quantised: the precision of the Q/DQ nodes that a given ONNX holds; ``None`` without any.
        operators: the types of all nodes of the ONNX; ``None`` if its export did not list them.
    """

    onnx: Artifact
    program: Artifact
    artifacts: tuple[Artifact, ...]
    quantised: Precision | None = None
    operators: frozenset[str] | None = None
