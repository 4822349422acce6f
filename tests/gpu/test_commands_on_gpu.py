"""``build``, ``run``, ``bench`` and ``finish`` on a machine with a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gpu_nets import SPEC, GpuNet, make_data

from deployfold.compile import Machine, optimization_profiles
from deployfold.finish import REFERENCE_NPZ, Wanted, finish, write_finish_kit
from deployfold.finish.reference import write_reference
from deployfold.report.model import Environment, ModelInput, Report, Row, Source, write_report
from deployfold.spec import Precision

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("machine")]


def deployfold(*words: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "deployfold", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def compiler(machine: Machine) -> None:
    if machine.tensorrt is None and machine.tensorrt_rtx is None:
        pytest.skip("neither tensorrt nor tensorrt_rtx is installed")


def test_a_build_measures_its_engine_and_the_other_commands_run_it(
    gpu_net: GpuNet, tmp_path: Path
) -> None:
    torch.save(gpu_net.module, tmp_path / "net.pt")
    words = ("--fp16", "--input", "2x3x32x32", "--max-seconds", "5", "-o", "out")
    report = json.loads(deployfold("build", "net.pt", *words, "--json", cwd=tmp_path))
    (row,) = (row for row in report["rows"] if row["name"].startswith("tensorrt-fp16"))
    if row["artifact"] is None:
        pytest.skip(row["not_measured"])
    assert row["latency"]["median_ms"] > 0
    assert row["accuracy"]["sqnr_db"] > 30

    np.save(tmp_path / "x.npy", make_data(2))
    engine = f"out/{row['artifact']}"
    words = ("--input", "x.npy", "-o", "y.npz", "--json")
    ran = json.loads(deployfold("run", engine, *words, cwd=tmp_path))
    assert ran["runtime"].startswith("TensorRT")
    assert ran["outputs"][0]["shape"] == [2, 10]
    with np.load(tmp_path / "y.npz") as saved:
        (values,) = (saved[name] for name in saved.files)
    expected = gpu_net.expected(make_data(2))
    assert (values.argmax(1) == expected.argmax(1)).all()

    again = json.loads(deployfold("bench", "out", "--max-seconds", "5", "--json", cwd=tmp_path))
    (row,) = (row for row in again["rows"] if row["name"].startswith("tensorrt-fp16"))
    assert row["latency"]["median_ms"] > 0


def test_a_build_measures_what_torch_tensorrt_made(gpu_net: GpuNet, tmp_path: Path) -> None:
    torch.save(gpu_net.module, tmp_path / "net.pt")
    words = ("--fp16", "--input", "2x3x32x32", "--max-seconds", "5", "--torch-tensorrt", "--json")
    report = json.loads(deployfold("build", "net.pt", *words, cwd=tmp_path))
    (row,) = (row for row in report["rows"] if row["name"] == "torch-tensorrt-fp16")
    if row["artifact"] is None:
        pytest.skip(row["not_measured"])
    assert row["latency"]["median_ms"] > 0
    assert row["accuracy"]["sqnr_db"] > 30


def test_doctor_runs_an_engine(tmp_path: Path) -> None:
    checks = json.loads(deployfold("doctor", "--deep", "--json", cwd=tmp_path))
    found = [one for one in checks if one["detail"].startswith("builds")]
    assert found
    assert {one["detail"] for one in found} == {"builds and runs a test engine"}


def test_finish_builds_measures_and_verifies_here(
    gpu_net: GpuNet, machine: Machine, tmp_path: Path
) -> None:
    assert machine.gpu is not None
    onnx = {}
    for precision, path in gpu_net.onnx.items():
        onnx[precision] = tmp_path / path.name
        onnx[precision].write_bytes(path.read_bytes())
    data = make_data(2)
    wanted = [
        Wanted(
            row=f"tensorrt-{precision.value}-elsewhere",
            title="TensorRT",
            target="jetson-orin-nano",
            precision=precision,
            profiles=optimization_profiles(SPEC),
        )
        for precision in onnx
    ]
    report = Report(
        deployfold_version="0.1.0",
        created="2026-01-01T00:00:00Z",
        source=Source(path="net.pt", kind="module"),
        inputs=(ModelInput(name="x", shape=(2, 3, 32, 32), dtype="float32"),),
        rows=(Row(name="pytorch", title="PyTorch (original)"),),
        environment=Environment(cpu="a CPU", physical_cores=1, threads=1, os="an OS", python="3"),
    )
    write_report(report, tmp_path / "report.json")
    write_reference(tmp_path / REFERENCE_NPZ, [data], [gpu_net.expected(data)])
    write_finish_kit(
        tmp_path,
        model_name="net",
        onnx_by_precision=onnx,
        requests=wanted,
        inputs=["x"],
        report_path=tmp_path / "report.json",
    )
    finished = finish(tmp_path, max_seconds=5.0)
    rows = [row for row in finished.rows if row.artifact is not None]
    assert len(rows) == len(onnx)
    for row in rows:
        assert row.latency is not None, row.not_measured
        assert row.latency.median_ms > 0
        assert row.accuracy is not None
        assert row.accuracy.sqnr_db > 30
        assert row.accuracy.top1_agreement == 1.0
        assert any(machine.gpu.name in note for note in row.notes)
    assert {Precision(row.name.split("-")[1]) for row in rows} == set(onnx)
