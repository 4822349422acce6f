"""``--image-input``: raw pictures go into every artifact, into run.py and into Triton."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from cli_runs import make, run
from PIL import Image

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
FLAGS = ("--mean", "0.3,0.4,0.5", "--std", "0.3,0.25,0.2", "--channels", "bgr")  # BGR's order


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    torch.save(make(), folder / "net.pt")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 12, 3), np.uint8)
    (folder / "pictures").mkdir()
    for index, image in enumerate(pixels):
        Image.fromarray(image).resize((24, 18)).save(folder / "pictures" / f"{index}.png")
    done = run(
        "build", "net.pt", "--input", "1x3x16x16", "--image-input", "nhwc", *FLAGS, "--fp16",
        "--int8", "--calib", "pictures/", "--target", "l4", "-o", "out", "--threads", "1",
        "--max-seconds", "0.5", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_every_artifact_takes_frames(built: Path) -> None:
    report = json.loads((built / "out" / "report.json").read_text())
    (given,) = report["inputs"]
    assert (given["shape"], given["dtype"]) == ([1, 16, 16, 3], "uint8")
    note = next(one for one in report["notes"] if one.startswith("Raw uint8 frames go in (NHWC)"))
    assert "the scale, the channel order and the mean went into '0'." in note
    rows = {row["name"]: row for row in report["rows"]}
    for name in ("folded", "torchscript", "program", "onnxruntime"):
        assert rows[name]["accuracy"]["sqnr_db"] > 100
    assert rows["onnxruntime-int8"]["accuracy"]["sqnr_db"] > 20
    assert (built / "out" / "net.fp16.sm_89.engine").is_file()
    assert (built / "out" / "net.int8.sm_89.engine").is_file()
    (value,) = onnx.load(built / "out" / "net.onnx").graph.input
    assert value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    steps = json.loads((built / "out" / "preprocess.json").read_text())
    assert (steps["dtype"], steps["layout"], steps["channels"]) == ("uint8", "nhwc", "rgb")


def test_the_layers_of_the_original_are_found(built: Path) -> None:
    done = run("compare", "net.pt", "out/net.onnx", "--layers", "--json", cwd=built)
    assert done.returncode == 0, done.stderr
    assert {one["name"] for one in json.loads(done.stdout)["layers"]} >= {"model.3", "model.6"}


def test_run_py_gives_what_the_model_gives_for_normalised_floats(built: Path) -> None:
    assert run("bundle", "out", "-o", "net.dfb", cwd=built).returncode == 0
    assert run("bundle", "unpack", "net.dfb", "net", cwd=built).returncode == 0
    picture = built / "pictures" / "3.png"
    subprocess.run(
        [sys.executable, "net/run.py", str(picture), "--artifact", "net.onnx", "-o", "y.npz"],
        cwd=built, check=True, capture_output=True,
    )  # fmt: skip
    from deployfold.data.preprocess.steps import preprocess_from_json

    steps = preprocess_from_json(json.loads((built / "out" / "preprocess.json").read_text()))
    pixels = steps.apply(Image.open(picture))
    assert pixels.dtype == np.uint8
    floats = (pixels / 255 - np.array(MEAN)) / np.array(STD)  # RGB
    bgr = np.ascontiguousarray(floats[:, :, ::-1].transpose(2, 0, 1)[None], np.float32)
    with torch.no_grad():
        expected = make()(torch.from_numpy(bgr)).numpy()
    with np.load(built / "y.npz") as saved:
        assert np.abs(saved["output_0"] - expected).max() < 1e-4 * np.abs(expected).max()


def test_triton_takes_uint8(built: Path) -> None:
    assert run("bundle", "out", "--format", "triton", "-o", "models", cwd=built).returncode == 0
    config = (built / "models" / "net_onnxruntime_fp16" / "config.pbtxt").read_text()
    assert "TYPE_UINT8" in config
    assert "dims: [ 1, 16, 16, 3 ]" in config


def test_bench_scores_the_files_on_pictures(built: Path) -> None:
    done = run(
        "bench", "out", "--input-data", "pictures/", "--metric", "cosine", "--only", "onnxruntime",
        "--threads", "1", "--max-seconds", "0.3", "--json", cwd=built,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows = {row["name"]: row for row in report["rows"]}
    assert set(rows) == {"pytorch", "onnxruntime"}, "the original takes the frames too"
    assert rows["onnxruntime"]["scores"]["cosine_min"] > 0.9999
    assert any(one.endswith("according to out/preprocess.json.") for one in report["notes"])
