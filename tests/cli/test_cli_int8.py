"""INT8 through the installed command."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from cli_runs import QUICK, run


@pytest.fixture
def data(folder, tmp_path):
    shutil.copy(folder / "net.pt", tmp_path)
    samples = np.random.default_rng(0).standard_normal((48, 3, 16, 16)).astype("float32")
    np.save(tmp_path / "samples.npy", samples)
    return tmp_path


def build(data, *words):
    return run(
        "build", "net.pt", "--int8", "--json", *words, *QUICK, cwd=data,
        XDG_CACHE_HOME=str(data / "cache"),
    )  # fmt: skip


def test_int8_is_calibrated_measured_and_built(data):
    done = build(data, "--fp16", "--calib", "samples.npy", "--target", "sm_86", "--target", "sm_89")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows = {row["name"]: row for row in report["rows"]}
    row = rows["onnxruntime-int8"]
    assert row["accuracy"]["sqnr_db"] >= 20
    assert row["quantization"]["quantized_macs_share"] == 1.0
    assert row["quantization"]["calibrated"] is True
    assert {layer["precision"] for layer in row["quantization"]["layers"]} == {"int8"}
    assert any("36 of 48 samples" in note for note in report["notes"])
    model = onnx.load(data / "build" / "net" / "net.int8.onnx")
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) == 3
    engines = [name for name in rows if name.startswith("tensorrt-int8")]
    assert len(engines) == 2
    assert all((data / "build" / "net" / rows[name]["artifact"]).stat().st_size for name in engines)


def test_a_second_run_takes_what_the_first_made(data):
    first = build(data, "--calib", "samples.npy", "--no-engine")
    path = data / "build" / "net" / "net.int8.onnx"
    before = path.read_bytes()
    path.unlink()
    again = build(data, "--calib", "samples.npy", "--no-engine")
    assert first.returncode == again.returncode == 0
    assert "from the cache" not in first.stderr
    assert "from the cache" in again.stderr
    assert path.read_bytes() == before
    rows = [json.loads(done.stdout)["rows"] for done in (first, again)]
    ours = [next(row for row in found if row["name"] == "onnxruntime-int8") for found in rows]
    assert ours[0]["quantization"] == ours[1]["quantization"]
    assert ours[0]["accuracy"] == ours[1]["accuracy"]
    other = build(data, "--calib", "samples.npy", "--no-engine", "--residual-qdq")
    assert other.returncode == 0
    assert "from the cache" not in other.stderr
    assert any("residual sums" in note for note in json.loads(other.stdout)["notes"])


def test_missing_data_is_named_in_every_report(data):
    done = build(data, "--calib", "random", "--calib-samples", "8", "--no-engine")
    assert done.returncode == 0, done.stderr
    assert "uncalibrated" in (data / "build" / "net" / "report.md").read_text()
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["onnxruntime-int8"]["quantization"]["calibrated"] is False


def test_accuracy_that_cannot_be_kept_is_refused_and_the_rest_built(data):
    done = build(
        data, "--calib", "samples.npy", "--min-sqnr", "80", "--min-quantized-share", "0.9",
        "--target", "sm_89",
    )  # fmt: skip
    assert done.returncode == 9
    assert "dB" in done.stderr
    assert "--min-sqnr" in done.stderr
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    assert report["status"]["state"] == "failed"
    rows = {row["name"]: row for row in report["rows"]}
    assert rows["onnxruntime-int8"]["not_measured"].startswith("refused")
    assert "tensorrt-fp16" in rows, "what INT8 would have left to fp16 is all in fp16"
    assert not (data / "build" / "net" / "net.int8.onnx").exists()
    assert (data / "build" / "net" / "report.json").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "needs data"),
        (("--calib", "nothing"), "does not exist"),
        (("--calib", "empty"), "empty"),
        (("--calib", "samples.npy", "--calib-samples", "1"), "calib-samples"),
        (("--calib", "wrong.npy"), "3x8x8"),
        (("--calib", "nan.npy"), "NaN"),
    ],
)
def test_bad_calibration_data_is_refused_with_the_reason(data, words, part):
    (data / "empty").mkdir()
    np.save(data / "wrong.npy", np.zeros((4, 3, 8, 8), np.float32))
    np.save(data / "nan.npy", np.full((4, 3, 16, 16), np.nan, np.float32))
    done = build(data, *words)
    assert done.returncode == 2
    assert part in done.stderr
    assert "Traceback" not in done.stderr
