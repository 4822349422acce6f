"""Writes a model in quantisation-aware training as an ONNX with Q/DQ nodes, which is then built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from deployfold.config.inputs import InputSpec
from deployfold.exporting import ExportJob
from deployfold.exporting.onnx import export_onnx
from deployfold.exporting.storage import SCRATCH_THRESHOLD
from deployfold.loading import LoadedModel
from deployfold.loading.onnx_module import OnnxModule
from deployfold.loading.quantised_training import exportable
from deployfold.lowering.qdq.given import without_pairs


class TrainedOnnx(OnnxModule):
    """The ONNX of a model in quantisation-aware training; a forward is that of the model.

    Attributes:
        trained: the model itself, its scales fixed.
        notes: sentences on codes that TensorRT lacks.
    """

    def __init__(self, model: LoadedModel, example: tuple[Tensor, ...], inputs: InputSpec) -> None:
        self._directory = TemporaryDirectory(prefix="deployfold-")
        super().__init__(Path(self._directory.name) / f"{model.name}.onnx")
        module, self.notes = exportable(model.module)
        export_onnx(
            ExportJob(module, example, inputs),
            self.path,
            "torch's other exporter writes no Q/DQ nodes",
            external_threshold=SCRATCH_THRESHOLD,
            compared_as=without_pairs,
        )
        self.trained = model.module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One inference of the model."""
        outputs: tuple[Tensor, ...] = self.trained(*inputs)
        return outputs


def with_pairs(model: LoadedModel, example: tuple[Tensor, ...], inputs: InputSpec) -> LoadedModel:
    """The model as an ONNX with the Q/DQ nodes of its training.

    Raises:
        LoadError: TensorRT has no such grid, or a scale was never set.
        ExportError: the model cannot be exported.
    """
    module = TrainedOnnx(model, example, inputs)
    return replace(model, module=module, notes=(*model.notes, *module.notes))
