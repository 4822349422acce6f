"""What TensorRT-RTX makes of FP16, INT8 and INT8 weights: kernels, precisions and sizes.

    PYTHONPATH=tests/support python tests/benchmarks/engines.py [NET …] [--folder FOLDER]

Each net is built by the command line for four compute capabilities. No GPU is needed, and nothing
runs on one. Prints two Markdown tables: what the engines for sm_89 compute in, read back from the
builder's log, and the size of each file with the SQNR of the ONNX.

MobileNetV2 is trained (see ``trained_nets.py``), calibrated on crops of the photographs of
``trained_inputs.py``, and judged on crops that the build holds back. The others have seeded random
weights and no calibration data, so that they have no SQNR worth printing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from trained_inputs import SEEN, crops
from trained_nets import IMAGENET, mobilenet

DEPLOYFOLD = Path(sysconfig.get_path("scripts")) / "deployfold"
PRECISIONS = ("fp16", "int8", "int8-weights")
TARGETS = ("sm_80", "sm_86", "sm_89", "sm_120")
INSPECTED = "sm_89"
SAMPLES = 32
"""Crops that calibrate and judge MobileNetV2."""


class _UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128, 256)
        self.down = nn.ModuleList(map(_convolutions, (3, *widths), widths))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(wide, narrow, 2, 2) for narrow, wide in pairwise(widths)
        )
        self.merge = nn.ModuleList(_convolutions(2 * width, width) for width in widths[:-1])
        self.last = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down[0](x)
        skips = []
        for block in self.down[1:]:
            skips.append(x)
            x = block(nn.functional.max_pool2d(x, 2))
        for up, merge, skip in zip(
            reversed(self.up), reversed(self.merge), reversed(skips), strict=True
        ):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.last(x)


def _convolutions(given: int, made: int) -> nn.Sequential:
    pairs = (
        (nn.Conv2d(width, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU())
        for width in (given, made)
    )
    return nn.Sequential(*(layer for pair in pairs for layer in pair))


def resnet50() -> nn.Module:
    """ResNet-50, for ``deployfold build engines:resnet50``."""
    torch.manual_seed(0)
    return torchvision.models.resnet50()


def unet() -> nn.Module:
    """A U-Net of four levels with transposed convolutions, 1.9 million parameters."""
    torch.manual_seed(0)
    return _UNet()


TRAINED = "MobileNetV2"
NETS = {"ResNet-50": (resnet50, 64), "MobileNetV2": (mobilenet, 224), "U-Net": (unet, 128)}


def rows_of(name: str, folder: Path) -> dict[str, Any]:
    """Build a net; the rows of its report by file name after the net's: ``int8.sm_89.engine``."""
    factory, side = NETS[name]
    words = ["build", f"engines:{factory.__name__}", "--input", f"1x3x{side}x{side}"]
    words += [f"--{precision}" for precision in PRECISIONS]
    words += [word for target in TARGETS for word in ("--target", target)]
    words += ["--no-guard", "--no-measure", "--calib", str(_calibration(name, folder))]
    output = folder / factory.__name__
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [DEPLOYFOLD, *words, "-o", output, "--no-color"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    rows = json.loads((output / "report.json").read_text())["rows"]
    return {row["artifact"].partition(".")[2]: row for row in rows if row["artifact"]}


def _calibration(name: str, folder: Path) -> Path | str:
    if name != TRAINED:
        return "random"
    path = folder / "crops.npy"
    np.save(path, np.concatenate(list(crops(SEEN, SAMPLES, 0, *IMAGENET))))
    return path


def inspected(name: str, rows: dict[str, Any]) -> None:
    """Print a line for each precision of one net."""
    for precision in PRECISIONS:
        listing = rows[f"{precision}.{INSPECTED}.engine"]["engine_layers"]
        asked = [layer for layer in listing["layers"] if layer["asked"] == precision]
        got = [layer for layer in asked if layer["got"] == precision]
        wide = sum(layer["writes"] == "fp32" for layer in got)
        print(
            f"| {name} | {precision} | {len(asked)} | {len(got)} | {wide} | {listing['kernels']} "
            f"| {listing['conversions']} |"
        )


def sized(name: str, rows: dict[str, Any]) -> None:
    """Print a line for the FP16 files and one for those with INT8 weights."""
    for precision in ("fp16", "int8-weights"):
        files = [f"{precision}.onnx", *(f"{precision}.{target}.engine" for target in TARGETS)]
        sizes = " | ".join(f"{rows[file]['bytes'] / 1e6:.1f}" for file in files)
        decibels = f"{rows[files[0]]['accuracy']['sqnr_db']:.1f}" if name == TRAINED else "–"
        print(f"| {name} | {precision} | {sizes} | {decibels} |")


def main() -> None:
    """Build the nets and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("nets", nargs="*", default=[*NETS], metavar="NET")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.mkdtemp()))
    given = parser.parse_args()
    built = {name: rows_of(name, given.folder) for name in given.nets}
    print("| network | precision | asked | got | of these fp32 outputs | kernels | conversions |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name, rows in built.items():
        inspected(name, rows)
    print(f"\n| network | precision | ONNX, MB | {', MB | '.join(TARGETS)}, MB | SQNR, dB |")
    print("|---|---|" + "---:|" * (len(TARGETS) + 2))
    for name, rows in built.items():
        sized(name, rows)


if __name__ == "__main__":
    main()
