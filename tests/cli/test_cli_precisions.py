"""BF16, FP8 and INT4 through the installed command."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_runs import QUICK, check_whole, fails, run
from onnx import TensorProto

TARGETS = ("--target", "l4", "--target", "a10", "--target", "t4")


@pytest.fixture(scope="module")
def work(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("precisions")
    shutil.copy(folder / "net.pt", work)
    samples = np.random.default_rng(0).standard_normal((40, 3, 16, 16)).astype("float32")
    np.save(work / "samples.npy", samples)
    return work


@pytest.fixture(scope="module")
def done(work: Path) -> subprocess.CompletedProcess[str]:
    return run(
        "build", "net.pt", "--bf16", "--fp8", "--int4", "--calib", "samples.npy", "-o", "out",
        "--min-sqnr", "10", "--json", *TARGETS, *QUICK,
        cwd=work, XDG_CACHE_HOME=str(work / "cache"),
    )  # fmt: skip


@pytest.fixture
def rows(done: subprocess.CompletedProcess[str]) -> dict[str, dict]:
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)["rows"]}


def stored(path: Path) -> set[int]:
    return {tensor.data_type for tensor in onnx.load(path).graph.initializer}


def test_each_is_written_measured_and_built(rows, work):
    out = work / "out"
    assert TensorProto.BFLOAT16 in stored(out / "net.bf16.onnx")
    assert TensorProto.FLOAT8E4M3FN in stored(out / "net.fp8.onnx")
    assert TensorProto.INT4 in stored(out / "net.int4.onnx")
    for name, least in (("bf16", 35), ("fp8", 20), ("int4", 20)):
        row = rows[f"onnxruntime-{name}"]
        assert row["accuracy"]["sqnr_db"] >= least, name
        assert row["latency"] is None
        assert row["not_measured"].startswith("ONNX Runtime")
    assert rows["onnxruntime-fp8"]["quantization"]["quantized_macs_share"] == 1.0
    assert rows["onnxruntime-fp8"]["quantization"]["precision"] == "fp8"
    assert 0 < rows["onnxruntime-int4"]["quantization"]["quantized_macs_share"] < 0.1, (
        "the classifier alone"
    )
    assert (
        rows["onnxruntime-int4"]["accuracy"]["samples"]
        == rows["onnxruntime-fp8"]["accuracy"]["samples"]
    )
    check_whole(out)


def test_a_row_says_how_many_layers_are_in_its_precision(rows):
    for name, count in (("bf16", 3), ("fp8", 3), ("int4", 1)):
        (row,) = (row for key, row in rows.items() if key.startswith(f"tensorrt-{name}-sm_89"))
        assert f"{count} of 3 compute layers in {name}" in row["notes"]


def test_a_gpu_without_the_precision_gets_a_sentence_and_no_kit(rows, work):
    assert rows["tensorrt-fp8-a10"]["not_measured"].startswith("No fp8 engine for sm_86: ")
    assert rows["tensorrt-bf16-t4"]["not_measured"].startswith("No bf16 engine for sm_75: ")
    kit = json.loads((work / "out" / "finish.json").read_text())
    assert [(one["precision"], one["target"]) for one in kit["engines"]] == [("int4", "t4")]
    engines = {path.name for path in (work / "out").glob("*.engine")}
    assert engines == {
        f"net.{name}.engine"
        for name in ("bf16.sm_89", "bf16.sm_86", "fp8.sm_89", "int4.sm_89", "int4.sm_86")
    }


def test_fp8_needs_data(work):
    assert "--calib" in fails(run("build", "net.pt", "--fp8", *QUICK, cwd=work), 2, "FP8 needs")


@pytest.mark.slow
def test_int4_without_data_is_measured_on_the_inputs_and_says_so(work, tmp_path):
    done = run(
        "build", str(work / "net.pt"), "--int4", "--min-sqnr", "90", "--no-engine", "--no-measure",
        "--json", "-o", str(tmp_path / "out"), *QUICK, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = (r for r in json.loads(done.stdout)["rows"] if r["name"] == "onnxruntime-int4")
    notes = " ".join(row["notes"])
    assert "without calibration data, measured on seeded random" in notes
    assert "less than --min-sqnr 90: with --calib" in notes
    assert row["accuracy"]["samples"] == 2, "one input with a batch of two"


def test_a_refused_bf16_does_not_cost_the_int8(work):
    done = run(
        "build", "net.pt", "--bf16", "--int8", "--fp16", "--calib", "samples.npy", "-o", "refused",
        "--min-sqnr-for", "bf16=300", "--keep-fp32-op", "Gemm", "--no-engine", "--json", *QUICK,
        cwd=work, XDG_CACHE_HOME=str(work / "cache"),
    )  # fmt: skip
    assert done.returncode == 9, done.stderr
    assert "BF16 keeps 300 dB only with every layer in fp32" in done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["onnxruntime-bf16"]["not_measured"].startswith("refused")
    assert not (work / "refused" / "net.bf16.onnx").exists()
    for name in ("int8", "fp16"):
        row = rows[f"onnxruntime-{name}"]
        assert row["accuracy"]["sqnr_db"] > 20
        assert row["accuracy"]["samples"] > 0
        assert any("--keep-fp32-op Gemm" in note for note in row["notes"])
        assert any("accuracy of the file as written" in note for note in row["notes"])
        assert (work / "refused" / f"net.{name}.onnx").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--keep-fp32", "nothing_like_it"), "no node or module"),
        (("--keep-fp32-op", "Sofmax"), "no such operator"),
        (("--min-sqnr-for", "fp16"), "PRECISION=DB"),
    ],
)
def test_names_in_options_must_exist_in_the_model(work, words, part):
    done = run("build", "net.pt", "--fp16", "--no-engine", "-o", "no", *words, *QUICK, cwd=work)
    assert done.returncode == 2, done.stderr
    assert part in " ".join(done.stderr.split())
    # Only the model's own names are unknown until it is exported.
    assert ("✓ load" in done.stderr) == (words[0] == "--keep-fp32")
