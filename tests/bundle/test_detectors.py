"""Trained detectors keep their average precision from JPEGs to boxes, in every artifact and
precision.

The nets are trained on drawn shapes (``tests/support/detectors.py``), so each of them detects.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import detectors
import numpy as np
import pytest
import torch
from cli_runs import run
from PIL import Image

from deployfold.scoring.detections import read_detections

pytestmark = pytest.mark.slow
pytest.importorskip("torchvision")

QUICK = ("--threads", "1", "--max-seconds", "1")
PIXELS = (
    "--input", "1x3x96x96", "--resize", "96", "--mean", "0.4,0.4,0.4", "--std", "0.25,0.25,0.25",
    "--image-input", "nhwc",
)  # fmt: skip
POINT = 0.01


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    detectors.write_pictures(folder, 320, seed=5)
    return folder


@pytest.fixture(scope="session")
def nets(shapes: Path) -> Any:
    return detectors.write_nets(shapes)


def rows_of(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text())
    assert report["status"]["state"] == "complete"
    assert all(limit["passed"] for limit in report["thresholds"])
    return {row["name"]: row for row in report["rows"]}


def scores_of(rows: dict[str, Any], metric: str) -> dict[str, float]:
    return {name: row["scores"][metric] for name, row in rows.items() if row["scores"]}


def test_a_yolo_from_pictures_to_boxes(shapes: Path, nets: Any, bare: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    net = detectors.trained(nets, "Yolo", steps=220)
    torch.save(net.state_dict(), shapes / "yolo.pth")
    done = run(
        "build", "yolo.pth", "--arch", "shape_nets:Yolo", *PIXELS, "--fp16", "--int8", "--calib",
        "pictures/", "--labels", "boxes.json", "--metric", "box_ap", "--min-metric",
        "box_ap=-1pt", "--target", "l4", *QUICK, "-o", "yolo", cwd=shapes,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = rows_of(shapes / "yolo")
    ap = scores_of(rows, "box_ap")
    assert ap["pytorch"] > 0.7, "the net detects"
    for name in ("folded", "torchscript", "program", "onnxruntime", "onnxruntime-cut"):
        assert ap[name] == pytest.approx(ap["pytorch"], abs=1e-4)
    assert ap["onnxruntime-fp16"] == pytest.approx(ap["pytorch"], abs=POINT / 2)
    assert ap["onnxruntime-int8"] > ap["pytorch"] - POINT
    outputs = rows["onnxruntime-int8"]["accuracy"]["outputs"]
    assert len(outputs) > 1
    assert min(one["sqnr_db"] for one in outputs) > 20, "no output hides another"
    assert rows["onnxruntime-int8"]["quantization"]["quantized_macs_share"] > 0.5
    for name in ("yolo.head.fp16.sm_89.engine", "yolo.head.int8.sm_89.engine"):
        assert (shapes / "yolo" / name).is_file()
    assert run("bundle", "yolo", "-o", "yolo.dfb", cwd=shapes).returncode == 0
    assert run("bundle", "unpack", "yolo.dfb", "device", cwd=shapes).returncode == 0
    for picture in sorted((shapes / "pictures").iterdir())[:4]:
        pixels = np.asarray(Image.open(picture)).astype(np.float32) / 255
        x = torch.from_numpy((pixels - np.float32(0.4)) / np.float32(0.25)).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = [one.numpy() for one in net(x)]
        for file in ("yolo.onnx", "yolo.head.onnx", "yolo.head.fp16.onnx"):
            found = boxes_of(bare, shapes, picture, file)
            (first,) = read_detections(expected) or ()
            kept = first.scores >= 0.3
            assert len(found) == kept.sum()
            for one, box, kind in zip(found, first.boxes[kept], first.classes[kept], strict=True):
                assert one["class"] == kind
                assert np.abs(np.array(one["box"]) - box).max() < 1.0


def boxes_of(python: Path, folder: Path, picture: Path, file: str) -> list[dict[str, Any]]:
    """What ``run.py`` prints of a picture, which it also draws."""
    words = [str(picture), "--artifact", file, "--json", "--draw", "drawn.png"]
    done = subprocess.run(
        [python, "device/run.py", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["boxes"]
    before, after = (
        np.asarray(Image.open(one)).astype(int) for one in (picture, folder / "drawn.png")
    )
    changed = np.abs(before - after).sum(2) > 0
    for one in found:
        left, _, right, bottom = (round(side) for side in one["box"])
        edge = changed[min(bottom, 95), max(left, 0) : min(right, 95)]
        assert edge.mean() > 0.9, "the lower edge is drawn"
    assert bool(found) == bool(changed.any())
    return found


def test_a_unet_from_pictures_to_masks(shapes: Path, nets: Any) -> None:
    torch.save(detectors.trained(nets, "UNet", steps=60).state_dict(), shapes / "unet.pth")
    done = run(
        "build", "unet.pth", "--arch", "shape_nets:UNet", *PIXELS, "--fp16", "--int8", "--calib",
        "pictures/", "--labels", "masks/", "--metric", "mean_iou", "--min-metric",
        "mean_iou=-1pt", "--target", "l4", *QUICK, "-o", "unet", cwd=shapes,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    iou = scores_of(rows_of(shapes / "unet"), "mean_iou")
    assert iou["pytorch"] > 0.8
    assert iou["onnxruntime-fp16"] == pytest.approx(iou["pytorch"], abs=POINT / 2)
    assert iou["onnxruntime-int8"] > iou["pytorch"] - POINT


def test_an_ssd_of_torchvision(shapes: Path, nets: Any) -> None:
    pytest.importorskip("faster_coco_eval")
    torch.save(detectors.trained(nets, "Ssd", steps=150).state_dict(), shapes / "ssd.pth")
    done = run(
        "build", "ssd.pth", "--arch", "shape_nets:Ssd", *PIXELS, "--fp16", "--int8", "--calib",
        "pictures/", "--labels", "boxes.json", "--metric", "box_ap_ids", "--min-metric",
        "box_ap_ids=-1pt", "--target", "l4", *QUICK, "-o", "ssd", cwd=shapes,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ap = scores_of(rows_of(shapes / "ssd"), "box_ap_ids")
    assert ap["pytorch"] > 0.5
    assert ap["onnxruntime-cut"] == pytest.approx(ap["pytorch"], abs=1e-4)
    assert ap["onnxruntime-int8"] > ap["pytorch"] - POINT
