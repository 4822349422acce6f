"""Small models for the export tests; torch's default dtype and seeded weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from deployfold.config.inputs import InputSpec, TensorSpec
from deployfold.config.optimization_profiles import DynamicBatch
from deployfold.exporting import ExportedFile, ExportJob, OnnxArtifact, TorchScriptArtifact
from deployfold.exporting import export_onnx as write_onnx
from deployfold.exporting import export_torchscript as write_torchscript
from deployfold.exporting.program import PROGRAM


class TwoInputs(nn.Module):
    """Two inputs of different rank, one of them not used, a dict of nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(5, 4)

    def forward(self, image: Tensor, unused: Tensor, vector: Tensor) -> dict[str, object]:
        features = torch.relu(self.conv(image)).mean((2, 3))
        result = features + self.linear(vector)
        return {"out": result, "aux": [result * 2, features], "nothing": None}


class Branching(nn.Module):
    """Control flow on the values of a tensor: torch.export refuses it, tracing bakes it in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        if x.sum() > 1e6:
            x = x * 2
        return x + 1


class FixedBatch(nn.Module):
    """A module whose code contains the batch size 2."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1) * 3


def conv_bn() -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), norm, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    ).eval()


def image_inputs(batch: int = 1) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return (torch.randn(batch, 3, 8, 8),)


def spec_for(
    inputs: tuple[Tensor, ...], *names: str, dynamic: tuple[int, int, int] | None = None
) -> InputSpec:
    tensors = tuple(
        TensorSpec(tuple(value.shape), name, str(value.dtype).removeprefix("torch."))
        for value, name in zip(inputs, names or ("image",), strict=True)
    )
    return InputSpec(tensors).with_profiles((DynamicBatch(*dynamic),) if dynamic else ())


def export_program(
    module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, spec: InputSpec
) -> tuple[ExportedProgram, ExportedFile]:
    """Write a ``.pt2``; returns the program in memory as well."""
    job = ExportJob(module, inputs, spec)
    return job.program, PROGRAM.export(job, path)


def export_torchscript(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    *,
    script: bool = False,
    spec: InputSpec | None = None,
) -> TorchScriptArtifact:
    spec = spec or spec_for(inputs, *(f"x{number}" for number in range(len(inputs))))
    return write_torchscript(ExportJob(module, inputs, spec, script=script), path)


def export_onnx(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    *,
    spec: InputSpec,
    program: ExportedProgram | str | None = None,
    metadata: Mapping[str, str] | None = None,
    **options: int,
) -> OnnxArtifact:
    """Write an ONNX; by the TorchScript-based exporter, which is faster, without a program."""
    job = ExportJob(module, inputs, spec, metadata=metadata or {})
    return write_onnx(job, path, program or "there is no program", **options)
