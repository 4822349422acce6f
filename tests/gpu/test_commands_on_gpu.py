"""``build``, ``run``, ``bench`` and ``finish`` on a machine with a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gpu_nets import LIBRARIES, SPEC, SQNR, GpuNet, make_data, request_on

from deployfold.compiling.compiler_choice import runs_here
from deployfold.compiling.records import NoEngine, optimization_profiles
from deployfold.config.precision import Precision
from deployfold.errors import DeployfoldError
from deployfold.finish.device import finish
from deployfold.finish.kit import Wanted, write_finish_kit
from deployfold.finish.reference import REFERENCE_NPZ, write_reference
from deployfold.reporting.conditions import Environment, ModelInput, Source
from deployfold.reporting.report import Report, write_report
from deployfold.reporting.row import Row
from deployfold.runtimes.onnxruntime_providers import resolve_provider
from deployfold.targets.libraries import LIBRARIES as RECORDS
from deployfold.targets.machine import Machine
from deployfold.util.numerics import sqnr_db

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


@pytest.fixture
def compiler(machine: Machine) -> None:
    """Skips where nothing here builds for this GPU."""
    entry = request_on(machine, Precision.FP16)
    if isinstance(entry, NoEngine):
        pytest.skip(entry.reason)


@pytest.mark.usefixtures("compiler")
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
    assert ran["cuda_graph"] is not None
    plain = json.loads(deployfold("run", engine, *words, "--no-cuda-graph", cwd=tmp_path))
    assert plain["cuda_graph"] == {"used": False, "reason": "--no-cuda-graph"}
    with np.load(tmp_path / "y.npz") as saved:
        (values,) = (saved[name] for name in saved.files)
    expected = gpu_net.expected(make_data(2))
    assert (values.argmax(1) == expected.argmax(1)).all()

    again = json.loads(deployfold("bench", "out", "--max-seconds", "5", "--json", cwd=tmp_path))
    (row,) = (row for row in again["rows"] if row["name"].startswith("tensorrt-fp16"))
    assert row["latency"]["median_ms"] > 0


@pytest.mark.usefixtures("compiler")
def test_tune_times_the_regions_and_a_second_build_reads_its_log(
    gpu_net: GpuNet, tmp_path: Path
) -> None:
    torch.save(gpu_net.module, tmp_path / "net.pt")
    np.save(tmp_path / "x.npy", make_data(64))
    words = (
        "--int8", "--calib", "x.npy", "--input", "2x3x32x32", "--min-quantized-share", "0.1",
        "--tune", "--no-measure", "-o", "out", "--json",
    )  # fmt: skip
    report = json.loads(deployfold("build", "net.pt", *words, cwd=tmp_path))
    (row,) = (row for row in report["rows"] if row["name"] == "onnxruntime-int8")
    assert any(note.startswith("--tune timed") for note in row["notes"])
    log = tmp_path / "out" / "net.int8.tuning.json"
    first = log.read_text()
    assert all(one["value"] > 0 for one in json.loads(first).values())
    deployfold("build", "net.pt", *words, cwd=tmp_path)
    assert log.read_text() == first


@pytest.mark.usefixtures("compiler")
def test_a_build_measures_what_torch_tensorrt_made(gpu_net: GpuNet, tmp_path: Path) -> None:
    torch.save(gpu_net.module, tmp_path / "net.pt")
    words = ("--fp16", "--input", "2x3x32x32", "--max-seconds", "5", "--torch-tensorrt", "--json")
    report = json.loads(deployfold("build", "net.pt", *words, cwd=tmp_path))
    (row,) = (row for row in report["rows"] if row["name"] == "torch-tensorrt-fp16")
    if row["artifact"] is None:
        pytest.skip(row["not_measured"])
    assert row["latency"]["median_ms"] > 0
    assert row["accuracy"]["sqnr_db"] > 30


def test_doctor_runs_an_engine_of_what_serves_this_gpu(machine: Machine, tmp_path: Path) -> None:
    checks = json.loads(deployfold("doctor", "--deep", "--json", cwd=tmp_path))
    details = {one["name"]: one["detail"] for one in checks}
    for library in LIBRARIES:
        if getattr(machine, library) is not None:
            runs = runs_here(library, machine)
            works = (
                "builds and runs a test engine"
                if runs
                else "builds a test engine; this machine has no"
            )
            assert details[RECORDS[library].title].startswith(works)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "tensorrt-rtx"])
def test_an_onnx_runs_in_the_providers_that_are_here(
    gpu_net: GpuNet, tmp_path: Path, provider: str
) -> None:
    try:
        resolve_provider(provider)
    except DeployfoldError as error:
        pytest.skip(error.message)
    np.save(tmp_path / "x.npy", make_data(2))
    onnx = str(gpu_net.onnx[Precision.FP32])
    words = ("--provider", provider, "--input", "x.npy", "-o", "y.npy", "--json")
    ran = json.loads(deployfold("run", onnx, *words, cwd=tmp_path))
    assert "nodes" in ran["placement"]
    assert sqnr_db(gpu_net.expected(make_data(2)), np.load(tmp_path / "y.npy")) > 40
    words = ("--provider", "cpu", "--provider", provider, "--max-seconds", "5", "--json")
    rows = json.loads(deployfold("bench", onnx, *words, cwd=tmp_path))["rows"]
    assert [row["latency"]["median_ms"] > 0 for row in rows] == [True, True]


@pytest.mark.usefixtures("compiler")
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
        precision = Precision(row.name.split("-")[1])
        assert row.accuracy.sqnr_db > SQNR[precision]
        assert row.accuracy.top1_agreement == 1.0 or precision is Precision.INT8
        assert row.latency.graph is not None
        assert any(machine.gpu.name in note for note in row.notes)
    assert {Precision(row.name.split("-")[1]) for row in rows} == set(onnx)
