"""What the tests on a GPU build: a small network with a dynamic batch, and requests for it.

``test_gpu_ready.py`` runs all of this on machines without a GPU, so that it works where there is
one.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from lowering_calls import lower_fp16, lower_qdq

from deployfold.compiling import (
    EngineOptions,
    EngineRequest,
    Machine,
    NoEngine,
    optimization_profiles,
    plan_engines,
)
from deployfold.config.accuracy import GuardSpec
from deployfold.config.inputs import InputSpec
from deployfold.config.optimization_profiles import DynamicBatch
from deployfold.config.precision import Precision
from deployfold.targets.libraries import Library

LIBRARIES: tuple[Library, ...] = ("tensorrt", "tensorrt_rtx")
SPEC = InputSpec.parse(["x=2x3x32x32"]).with_profiles((DynamicBatch(1, 2, 8),))
SQNR = {Precision.FP32: 40.0, Precision.FP16: 30.0, Precision.INT8: 20.0}
"""dB that an engine must keep: TF32 has 10 bits of mantissa and fp16 too; a wrong result has 0."""


@dataclass(frozen=True)
class GpuNet:
    """The network's ONNX by precision, its ``.pt2``, and the module itself."""

    module: torch.nn.Module
    onnx: dict[Precision, Path]
    program: Path

    def expected(self, data: np.ndarray) -> np.ndarray:
        """What ONNX Runtime computes in fp32."""
        path = str(self.onnx[Precision.FP32])
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (output,) = session.run(None, {"x": data})
        return np.asarray(output)


def make_gpu_net(directory: Path) -> GpuNet:
    """Export a convolutional classifier of 10 classes for 32x32 pictures."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 32, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(512, 10),
    ).eval()
    x = torch.randn(2, 3, 32, 32)
    onnx, half = directory / "net.onnx", directory / "net.fp16.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (x,),
            str(onnx),
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
        )
    lower_fp16(onnx, half, inputs=[{"x": x.numpy()}])
    int8, samples = directory / "net.int8.onnx", [{"x": make_data(8)}, {"x": make_data(7)}]
    lower_qdq(
        onnx, int8, precision=Precision.INT8, calibration=samples, held_back=samples[:1],
        fallback=Precision.FP16, guard=GuardSpec(enabled=False),
    )  # fmt: skip
    program = directory / "net.pt2"
    batch = torch.export.Dim("batch", min=1, max=8)
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=({0: batch},)), program)
    return GpuNet(
        module, {Precision.FP32: onnx, Precision.FP16: half, Precision.INT8: int8}, program
    )


def make_data(batch: int) -> np.ndarray:
    """Seeded random pictures."""
    return np.random.default_rng(batch).standard_normal((batch, 3, 32, 32)).astype(np.float32)


def only(machine: Machine, library: Library) -> Machine:
    """The machine, had it no other library."""
    absent = {name: None for name in LIBRARIES if name != library}
    return dataclasses.replace(machine, **absent)


def request_on(
    machine: Machine, precision: Precision, options: EngineOptions | None = None
) -> EngineRequest | NoEngine:
    """The engine that ``auto`` builds there, with the network's optimization profile."""
    (entry,) = plan_engines(["auto"], precision, machine)
    if isinstance(entry, NoEngine):
        return entry
    return dataclasses.replace(
        entry, profiles=optimization_profiles(SPEC), options=options or EngineOptions()
    )
