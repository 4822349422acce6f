"""The network of the GPU tests, small and with a dynamic batch, and its build requests.

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
from lowering_calls import lower_cast, lower_qdq

from deployfold.compiling.planning import plan_engines
from deployfold.compiling.records import EngineRequest, NoEngine, optimization_profiles
from deployfold.config.accuracy import GuardSpec
from deployfold.config.engine import EngineOptions
from deployfold.config.inputs import InputSpec
from deployfold.config.optimization_profiles import DynamicBatch
from deployfold.config.precision import Precision
from deployfold.targets.libraries import Library
from deployfold.targets.machine import Machine

LIBRARIES: tuple[Library, ...] = ("tensorrt", "tensorrt_rtx")
SPEC = InputSpec.parse(["x=2x3x32x32"]).with_profiles((DynamicBatch(1, 2, 8),))
SQNR = {
    Precision.FP32: 40.0,
    Precision.FP16: 30.0,
    Precision.BF16: 20.0,
    Precision.INT8_WEIGHTS: 20.0,
    Precision.INT8: 20.0,
    Precision.FP8: 17.0,
    Precision.INT4: 15.0,
}
"""dB that an engine must keep: TF32 has 10 bits of mantissa and fp16 too; a wrong result has 0."""


@dataclass(frozen=True)
class GpuNet:
    """The network's ONNX by precision, its ``.pt2``, and the module itself.

    ``lowered_db`` is the SQNR of each lowered file, with every low-precision tensor rounded.
    """

    module: torch.nn.Module
    onnx: dict[Precision, Path]
    lowered_db: dict[Precision, float]
    program: Path

    def expected(self, data: np.ndarray) -> np.ndarray:
        """The outputs of ONNX Runtime in fp32."""
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
    onnx = directory / "net.onnx"
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
    files, lowered_db = {Precision.FP32: onnx}, {Precision.FP32: np.inf}
    samples = [{"x": make_data(8)}, {"x": make_data(7)}]
    for precision in SQNR:
        path = directory / f"net.{precision.value}.onnx"
        if precision.record.family == "cast":
            lowered = lower_cast(onnx, path, precision, inputs=[{"x": x.numpy()}])
        elif precision.record.family == "qdq":
            lowered = lower_qdq(
                onnx, path, precision=precision, calibration=samples, held_back=samples[:1],
                guard=GuardSpec(enabled=False),
            )  # fmt: skip
        else:
            continue
        files[precision], lowered_db[precision] = path, lowered.sqnr_db
    program = directory / "net.pt2"
    batch = torch.export.Dim("batch", min=1, max=8)
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=({0: batch},)), program)
    return GpuNet(module, files, lowered_db, program)


class _TwoInputs(torch.nn.Module):
    """Adds rows of a table, by int64 indices, to a projection of floats; gives sum and mask."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.table = torch.nn.Linear(16, 8), torch.nn.Embedding(20, 8)

    def forward(self, x: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.project(x) + self.table(index)
        return found, found > 0


def make_two_inputs(directory: Path) -> tuple[Path, dict[str, np.ndarray], list[np.ndarray]]:
    """An ONNX that takes floats and int64 and gives floats and bools; inputs, expected outputs."""
    torch.manual_seed(0)
    module = _TwoInputs().eval()
    x, index = torch.randn(4, 16), torch.arange(4)
    path = directory / "two.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (x, index), str(path), dynamo=False, input_names=["x", "index"],
            output_names=["sum", "mask"],
        )  # fmt: skip
    with torch.inference_mode():
        expected = [one.numpy() for one in module(x, index)]
    return path, {"x": x.numpy(), "index": index.numpy()}, expected


def make_data(batch: int) -> np.ndarray:
    """Seeded random pictures."""
    return np.random.default_rng(batch).standard_normal((batch, 3, 32, 32)).astype(np.float32)


def only(machine: Machine, library: Library) -> Machine:
    """The machine with this library alone."""
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
