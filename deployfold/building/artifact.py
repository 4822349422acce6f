"""The record of one artifact: a file that a stage made, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deployfold.reporting.layers import EngineLayers, QuantizationSummary
from deployfold.reporting.row import Accuracy
from deployfold.runtimes.protocol import Runner

if TYPE_CHECKING:
    from torch.nn import Module

    from deployfold.runtimes.torch_variants import Variant


@dataclass(frozen=True, eq=False)
class Artifact:
    """One row of the table before it is measured.

    Stages return artifacts; measuring turns each into a :class:`~deployfold.reporting.report.Row`.

    Attributes:
        name: the key of the row, such as ``tensorrt-fp16``; unique in a build.
        title: the name for users, such as ``TensorRT fp16``.
        runner: runs the artifact on this machine; ``None`` if this machine cannot run it, for the
            reason in ``not_measured``.
        path: the file; ``None`` for the original model and for an artifact that was not made.
        parameters: number of learnable scalars of its model.
        batchnorms: number of BatchNorm layers left in its model.
        bytes: size of the file and of its external data.
        accuracy: the comparison with the original, if the stage measured the file that it wrote.
        scores: the numbers of the task metrics, if the stage measured them.
        not_measured: the reason why the artifact was not made, or why it has no latency.
        fixed_batch: whether the file takes only the batch size of the build, although the batch was
            to be dynamic.
        quantization: the layers of a quantised model.
        engine_layers: the kernels of an engine, where its library lists them.
    """

    name: str
    title: str
    runner: Runner | None = None
    path: Path | None = None
    parameters: int | None = None
    batchnorms: int | None = None
    bytes: int | None = None
    accuracy: Accuracy | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    not_measured: str | None = None
    notes: tuple[str, ...] = ()
    fixed_batch: bool = False
    quantization: QuantizationSummary | None = None
    engine_layers: EngineLayers | None = None

    @property
    def file(self) -> Path:
        """The path of the artifact's file; ``ValueError`` if the artifact was not made."""
        if self.path is None:
            raise ValueError(f"{self.name} was not made: {self.not_measured}")
        return self.path

    def variants(
        self, asked: Sequence[Variant], module: Module, device: str | None
    ) -> list[Artifact]:
        """Further rows of an eager module that has no file of its own in these forms.

        Args:
            asked: the variants; see :func:`deployfold.runtimes.torch_variants.variants_on`.
        """
        return [
            replace(
                self,
                name=f"{self.name}-{one.key}",
                title=f"{self.title}, {one.label}",
                path=None,
                bytes=None,
                runner=one.open(module, device=device),
            )
            for one in asked
        ]
