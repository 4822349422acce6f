"""Makes a build directory with a kit to finish, without a build."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from small_onnx import make_onnx

from deployfold.config.engine import EngineOptions
from deployfold.config.optimization_profiles import InputShapes
from deployfold.config.precision import Precision
from deployfold.finish.kit import Wanted, write_finish_kit
from deployfold.finish.reference import REFERENCE_NPZ, write_reference
from deployfold.reporting.conditions import Environment, ModelInput, Source
from deployfold.reporting.report import Report, ThresholdResult, write_report
from deployfold.reporting.row import Row

SHAPE = (2, 3, 16, 16)


def make_kit(
    directory: Path,
    *,
    targets: Sequence[str] = ("jetson-orin-nano", "l4"),
    external: bool = False,
    options: EngineOptions | None = None,
) -> Path:
    """Write the files of a build whose engines for ``targets`` are still to be made."""
    directory.mkdir(parents=True, exist_ok=True)
    path = make_onnx(directory / "net.onnx", external=external)
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    profile = (InputShapes("x", (1, *SHAPE[1:]), SHAPE, (4, *SHAPE[1:])),)
    wanted = [
        Wanted(
            row=f"tensorrt-fp32-{target}",
            title=f"TensorRT fp32, {target}",
            target=target,
            precision=Precision.FP32,
            profiles=(profile,),
            options=options or EngineOptions(),
        )
        for target in targets
    ]
    rows = [
        Row(name="pytorch", title="PyTorch (original)", parameters=272, batchnorm_layers=1),
        *(
            Row(name=one.row, title=one.title, parameters=272, not_measured="No engine for it.")
            for one in wanted
        ),
    ]
    report = Report(
        deployfold_version="0.1.0",
        created="2026-11-24T00:00:00Z",
        source=Source(path="net.pt", kind="module"),
        inputs=(ModelInput(name="x", shape=SHAPE, dtype="float32"),),
        rows=tuple(rows),
        environment=Environment(cpu="a CPU", physical_cores=1, threads=1, os="an OS", python="3"),
        thresholds=(
            ThresholdResult(
                name="max-latency-ms", limit=5.0, value=None, row=wanted[0].row, passed=False
            ),
        ),
    )
    write_report(report, directory / "report.json")
    write_reference(directory / REFERENCE_NPZ, [x], session.run(None, {"x": x}))
    write_finish_kit(
        directory,
        model_name="net",
        onnx_by_precision={Precision.FP32: path},
        requests=wanted,
        inputs=["x"],
        report_path=directory / "report.json",
    )
    return directory
