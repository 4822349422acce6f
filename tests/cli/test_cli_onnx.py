"""ONNX files through the installed command: from the file of another exporter to a bundle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_files as files
import pytest
import qat_nets
import torch
from cli_runs import check_whole, fails, run
from PIL import Image

QUICK = ("--threads", "1", "--max-seconds", "0.5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    files.save(files.detector(11), folder / "yolo.onnx")
    files.save(files.resnet(), folder / "resnet.onnx")
    (folder / "pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 12, 3), np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).resize((96, 72)).save(folder / "pictures" / f"{index}.jpg")
    return folder


@pytest.fixture(scope="module")
def built(folder: Path) -> subprocess.CompletedProcess[str]:
    return run(
        "build", "yolo.onnx", "--fp16", "--int8", "--calib", "pictures/", "--target", "l4",
        "--target", "h100", "--choose", "size", "--json", "-o", "out", *QUICK, cwd=folder,
    )  # fmt: skip


def test_an_onnx_becomes_engines(folder: Path, built: subprocess.CompletedProcess[str]) -> None:
    assert built.returncode == 0, built.stderr
    report = json.loads(built.stdout)
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows)[:4] == ["original", "onnxruntime", "onnxruntime-fp16", "onnxruntime-int8"]
    assert rows["original"]["title"] == "ONNX Runtime (original)"
    assert rows["original"]["latency"]["speedup"]["value"] == 1.0  # the baseline
    assert rows["onnxruntime"]["latency"]["speedup"]["value"] > 0
    assert rows["onnxruntime"]["accuracy"]["max_abs_diff"] < 1e-3
    assert rows["onnxruntime-int8"]["accuracy"]["sqnr_db"] > 20
    assert report["source"]["kind"] == "onnx"
    assert (report["chosen"]["by"], report["chosen"]["file"]) == ("size", "yolo.int8.onnx")
    assert report["chosen"]["runner_up"] == "onnxruntime-fp16"
    assert report["fold"]["batchnorm_before"] == len(report["fold"]["folded"]) == 5
    names = check_whole(folder / "out")
    assert {"yolo.onnx", "yolo.fp16.onnx", "yolo.int8.onnx", "finish.json"} <= names
    assert {"yolo.fp16.sm_89.engine", "yolo.int8.sm_89.engine"} <= names
    assert not {name for name in names if name.endswith((".pt", ".pt2"))}


def test_its_build_is_run_measured_compared_and_bundled(
    folder: Path, built: subprocess.CompletedProcess[str]
) -> None:
    done = run("run", "out/yolo.int8.onnx", "--json", cwd=folder)
    (output,) = json.loads(done.stdout)["outputs"]
    assert (output["name"], output["shape"]) == ("output0", [1, 9, 256])
    done = run("bench", "yolo.onnx", "out/yolo.onnx", "--json", *QUICK, cwd=folder)
    assert done.returncode == 0, done.stderr
    done = run("compare", "yolo.onnx", "out/yolo.onnx", "--layers", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "BatchNorms folded in one file" in done.stdout
    done = run("bundle", "out", "-o", "yolo.dfb", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert run("bundle", "verify", "yolo.dfb", cwd=folder).returncode == 0
    assert run("bundle", "unpack", "yolo.dfb", "unpacked", cwd=folder).returncode == 0
    listed = subprocess.run(
        [sys.executable, "unpacked/run.py", "--list"],
        cwd=folder, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    assert next(name for name in listed if name.endswith(".onnx")) == "yolo.int8.onnx"
    done = run("bundle", "out", "--format", "triton", "-o", "models", cwd=folder)
    assert done.returncode == 0, done.stderr
    config = (folder / "models" / "yolo_onnxruntime_int8" / "config.pbtxt").read_text()
    assert 'name: "images"' in config
    assert 'name: "output0"' in config


def test_fold_writes_an_onnx_and_explains(folder: Path) -> None:
    done = run("fold", "resnet.onnx", "-o", "folded.onnx", "--explain", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "its input comes from Relu" in " ".join(done.stdout.split())
    kinds = [node.op_type for node in onnx.load(folder / "folded.onnx").graph.node]
    assert kinds.count("BatchNormalization") == 1
    done = run("fold", "resnet.onnx", "-o", "resnet.onnx", cwd=folder)
    fails(done, 2, "resnet.onnx is the model itself")


def test_the_plan_and_the_options_of_an_onnx(folder: Path) -> None:
    done = run("build", "resnet.onnx", "--fp16", "--target", "l4", "--dry-run", "--json",
               cwd=folder)  # fmt: skip
    rows = [row["name"] for row in json.loads(done.stdout)["rows"]]
    assert rows == ["original", "onnxruntime", "onnxruntime-fp16", "tensorrt-fp16"]
    done = run("build", "resnet.onnx", "--torch-compile", cwd=folder)
    fails(done, 2, "--torch-compile has no effect: an ONNX holds no PyTorch model.")


def test_a_model_in_quantisation_aware_training_keeps_its_scales(tmp_path: Path) -> None:
    shutil.copy(qat_nets.__file__, tmp_path)
    torch.save(qat_nets.trained().state_dict(), tmp_path / "net.pt")
    done = run(
        "build", "net.pt", "--arch", "qat_nets:prepared", "--input", "1x3x12x12", "--fp16",
        "--target", "l4", "--no-measure", "--json", "-o", "out", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["pytorch", "onnxruntime", "onnxruntime-int8", "tensorrt-int8"]
    assert rows["onnxruntime-int8"]["accuracy"]["sqnr_db"] > 30
    assert "int8 from the file: its scales are kept" in rows["onnxruntime-int8"]["notes"]
    assert (report["source"]["kind"], report["source"]["arch"]) == (
        "state_dict",
        "qat_nets:prepared",
    )
    assert {"net.onnx", "net.int8.onnx", "net.int8.sm_89.engine"} <= check_whole(tmp_path / "out")
