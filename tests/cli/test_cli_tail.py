"""``--tail``: an engine for what it can do, and ONNX Runtime for the rest behind it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from cli_runs import fails, run
from PIL import Image
from triton_repositories import model_config, read_config

pytest.importorskip("torchvision")

NETS = """
import torch
from torch import nn
from torchvision.ops import nms


class Suppress(nn.Module):
    def forward(self, boxes, scores):
        kept = nms(boxes, scores, 0.5)
        return boxes[kept], scores[kept]


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3, 2, 1)
        )
        self.choose = Suppress()

    def forward(self, x):
        found = self.body(x).flatten(2)[0].T
        middle, size = found[:, :2] * 8 + 16, found[:, 2:4].exp() * 4
        boxes = torch.cat([middle - size, middle + size], 1)
        return self.choose(boxes, found[:, 4].sigmoid())
"""
FLAGS = ("--arch", "tail_nets:Detector", "--input", "1x3x32x32", "--fp16", "--target", "l4")
QUICK = ("--threads", "1", "--max-seconds", "0.5")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tail")
    (folder / "tail_nets.py").write_text(NETS)
    sys.path.insert(0, str(folder))
    try:
        import tail_nets  # type: ignore[import-not-found]

        torch.manual_seed(0)
        torch.save(tail_nets.Detector().state_dict(), folder / "det.pth")
    finally:
        sys.path.remove(str(folder))
    done = run("build", "det.pth", *FLAGS, *QUICK, "-o", "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_engine_ends_before_the_operator_that_it_lacks(built: Path) -> None:
    report = json.loads((built / "out" / "report.json").read_text())
    note = next(one for one in report["notes"] if one.startswith("The engine ends before"))
    assert "NonMaxSuppression '/choose/NonMaxSuppression'" in note
    assert "ONNX Runtime runs det.tail.onnx behind it." in note
    rows = {row["name"]: row for row in report["rows"]}
    assert rows["onnxruntime-cut"]["artifact"] == "det.head.onnx"
    assert rows["onnxruntime-cut"]["latency"]["median_ms"] > 0
    assert rows["onnxruntime-cut"]["accuracy"]["max_abs_diff"] < 1e-3
    assert any(
        one.startswith("head ") and "tail " in one for one in rows["onnxruntime-cut"]["notes"]
    )
    assert rows["tensorrt-fp16"]["artifact"] == "det.head.fp16.sm_89.engine"


def test_run_and_bench_chain_the_two(built: Path) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    np.save(built / "x.npy", x)
    outputs = []
    for file in ("det.onnx", "det.head.onnx"):
        done = run("run", f"out/{file}", "--input", "x.npy", "-o", "y.npz", cwd=built)
        assert done.returncode == 0, done.stderr
        with np.load(built / "y.npz") as saved:
            outputs.append({name: saved[name] for name in saved.files})
    assert list(outputs[0]) == list(outputs[1])
    for name, expected in outputs[0].items():
        np.testing.assert_allclose(outputs[1][name], expected, atol=1e-4)
    done = run("bench", "out/det.onnx", "out/det.head.fp16.onnx", "--json", *QUICK, cwd=built)
    assert done.returncode == 0, done.stderr
    shutil.copy(built / "out" / "det.head.onnx", built / "alone.head.onnx")
    fails(run("run", "alone.head.onnx", cwd=built), 8, "There is no alone.tail.onnx")


def test_the_bundle_ships_the_tail_and_run_py_runs_it(built: Path) -> None:
    assert run("bundle", "out", "-o", "det.dfb", cwd=built).returncode == 0
    assert run("bundle", "unpack", "det.dfb", "det", cwd=built).returncode == 0
    done = subprocess.run(
        [sys.executable, "det/run.py", "--artifact", "det.head.onnx", "--json", "--bench", "0.1"],
        cwd=built, check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["check"]["passed"]
    assert "then ONNX Runtime" in found["runtime"]
    # The check is of what the head gives: with other numbers, the tail may give other boxes.
    path = built / "det" / "det.head.reference.npz"
    with np.load(path) as saved:
        arrays = {name: saved[name] for name in saved.files}
    arrays["output_0"] = arrays["output_0"][::-1]
    np.savez(path, **arrays)
    words = [sys.executable, "det/run.py", "--artifact", "det.head.fp16.onnx", "--json"]
    done = subprocess.run(words, cwd=built, check=False, capture_output=True, text=True)
    assert not json.loads(done.stdout)["check"]["passed"]


def test_triton_chains_the_two_in_an_ensemble(built: Path) -> None:
    """Follow the ensemble's maps in ONNX Runtime: the outputs are those of the whole model."""
    service = model_config()
    repository = built / "models"
    done = run("bundle", "out", "--format", "triton", "-o", "models", cwd=built)
    assert done.returncode == 0, done.stderr
    assert "det.head.fp16.sm_89.engine is left out: Triton loads engines of TensorRT" in done.stderr
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    expected = _outputs(built / "out" / "det.onnx", {"input": x})
    for precision in ("fp32", "fp16"):
        config = read_config(service, repository, f"det_onnxruntime_{precision}_cut")
        assert (config.platform, config.backend) == ("ensemble", "")
        assert (repository / config.name / "1").is_dir()
        tensors = {config.input[0].name: x}
        for step in config.ensemble_scheduling.step:
            own = read_config(service, repository, step.model_name)
            given = {own_name: tensors[name] for own_name, name in step.input_map.items()}
            assert set(given) == {one.name for one in own.input}
            path = repository / step.model_name / "1" / own.default_model_filename
            found = _outputs(path, given)
            assert set(step.output_map) == {one.name for one in own.output}
            tensors |= {name: found[own_name] for own_name, name in step.output_map.items()}
        for one in config.output:
            if precision == "fp32":
                np.testing.assert_allclose(tensors[one.name], expected[one.name], atol=1e-4)
            else:
                assert tensors[one.name].dtype == expected[one.name].dtype


def _outputs(path: Path, feeds: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def test_layers_of_both_parts_are_timed(built: Path) -> None:
    done = run("bench", "out/det.head.onnx", "--layers", "--json", *QUICK, cwd=built)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    names = [one["name"] for one in row["layer_times"]["layers"]]
    kinds = {one["kind"] for one in row["layer_times"]["layers"]}
    assert "NonMaxSuppression" in kinds
    assert any("Conv" in kind for kind in kinds)
    assert any(name.startswith("tail: ") for name in names)
    assert not all(name.startswith("tail: ") for name in names)


def test_keep_says_which_operator_and_why(built: Path) -> None:
    done = run(
        "build", "det.pth", *FLAGS, "--tail", "keep", "--no-measure", "-o", "kept", cwd=built
    )
    text = fails(done, 6, "TensorRT-RTX cannot build NonMaxSuppression")
    assert "'/choose/NonMaxSuppression': how much it gives depends on the values it re" in text
    assert "Build with --tail cut" in text
    assert "layerImpls" not in text


@pytest.mark.slow
def test_from_a_picture_to_boxes(built: Path) -> None:
    """Raw frames in, INT8 in the middle, NonMaxSuppression behind: the boxes are PyTorch's."""
    (built / "pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 12, 3), np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).resize((48, 36)).save(built / "pictures" / f"{index}.png")
    done = run(
        "build", "det.pth", *FLAGS, *QUICK, "--image-input", "nhwc", "--int8", "--calib",
        "pictures/", "-o", "frames", cwd=built,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (built / "frames" / "det.head.int8.sm_89.engine").is_file()
    assert run("bundle", "frames", "-o", "frames.dfb", cwd=built).returncode == 0
    assert run("bundle", "unpack", "frames.dfb", "device", cwd=built).returncode == 0
    picture = built / "pictures" / "3.png"
    from deployfold.data.preprocess.steps import preprocess_from_json

    steps = preprocess_from_json(json.loads((built / "frames" / "preprocess.json").read_text()))
    frame = torch.from_numpy(steps.apply(Image.open(picture))).double() / 255
    mean, std = (torch.tensor(one) for one in (steps.mean, steps.std))
    floats = ((frame - mean) / std).permute(2, 0, 1)[None].float()
    sys.path.insert(0, str(built))
    try:
        import tail_nets

        model = tail_nets.Detector()
    finally:
        sys.path.remove(str(built))
    model.load_state_dict(torch.load(built / "det.pth"))
    with torch.no_grad():
        boxes, scores = (one.numpy() for one in model.eval()(floats))
    assert len(boxes) > 1
    for file in ("det.onnx", "det.head.onnx"):
        subprocess.run(
            [sys.executable, "device/run.py", str(picture), "--artifact", file, "-o", "y.npz"],
            cwd=built, check=True, capture_output=True,
        )  # fmt: skip
        with np.load(built / "y.npz") as saved:
            assert saved["output_0"].shape == boxes.shape
            assert np.abs(saved["output_0"] - boxes).max() < 0.01  # pixels
            assert np.abs(saved["output_1"] - scores).max() < 1e-4
