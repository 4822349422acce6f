"""Damages the files and texts that deployfold reads, and hears how it takes that.

    PYTHONPATH=tests/support python tests/fuzz/fuzz.py TARGET CASES [SEED]

A reader may accept what it is given, or raise a DeployfoldError; anything else is a finding, and so
is code that ran, or memory past LIMIT. The first case is not damaged: it must be accepted, or the
others would be refused for something else; but what acts must be refused. Prints the number of
cases, and how many were accepted. What was found is left in the directory ``fuzz-findings``.
"""

from __future__ import annotations

import io
import pickle
import resource
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bundle_builds import make_build
from PIL import Image
from report_sample import full_report
from safetensors.torch import save as save_safetensors
from torch import nn

from deployfold.bundle.create import create
from deployfold.bundle.scan import Limits, scan
from deployfold.compiling.sidecar import read_sidecar
from deployfold.config.build_profiles import read_profile
from deployfold.config.inputs import InputSpec
from deployfold.config.optimization_profiles import InputShapes, parse_profile
from deployfold.config.precision import Precision
from deployfold.config.real_data import CalibrationSpec
from deployfold.config.thresholds import parse_row_limits
from deployfold.data.calibration import load_calibration
from deployfold.errors import DeployfoldError
from deployfold.finish.kit import Wanted, read_kit, write_finish_kit
from deployfold.loading import load_model
from deployfold.loading.formats import format
from deployfold.reporting.html import read_outline
from deployfold.reporting.markdown import render_markdown
from deployfold.reporting.report import load_report
from deployfold.sweep.fleet import read_fleet

LIMIT = 12 << 30
"""Bytes of address space; torch alone maps 6 GiB of it."""

MARKER = "code-ran"
SPLICES = (
    b"\x00", b"\xff" * 8, b"\x80\x02", b"-1", b"1e999", b"null", b"[", b"{", b'"', b"\n",
    b"\x1b[2J", b"../../x", b"/etc/passwd", b"999999999999", b"cos\nsystem\n", b"PK\x05\x06",
)  # fmt: skip

PROFILE = b"""description = "d"
fp16 = true
target = ["l4"]
dynamic-batch = "1:8:32"
held-back = 0.2
"""
FLEET = b"""precisions = ["fp16"]
targets = ["l4"]
[build]
no-measure = true
[[model]]
source = "net.pt"
"""


class Runs:
    """A pickle of it makes a file: whoever unpickles it in full ran its code."""

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (MARKER, "w"))


@dataclass(frozen=True)
class Target:
    """A file before the damage, and the function that reads the file."""

    content: bytes
    name: str
    read: Callable[[Path], object]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(net()), buffer)
    return buffer.getvalue()


def program() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(net(), (torch.randn(1, 3, 8, 8),)), buffer)
    return buffer.getvalue()


def picture(others: Path) -> bytes:
    """A picture in a folder with others."""
    others.mkdir()
    values = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    for number, value in enumerate(values):
        Image.fromarray(value).save(others / f"good-{number}.png")
    path = others / "good-0.png"
    return path.rename(others / "p.png").read_bytes()


def arrays() -> bytes:
    buffer = io.BytesIO()
    values = np.random.default_rng(0).standard_normal((8, 3, 8, 8), np.float32)
    np.savez(buffer, input=values)
    return buffer.getvalue()


def calibrate(source: Path) -> object:
    inputs = InputSpec.parse(["input=1x3x8x8"])
    return load_calibration(CalibrationSpec(str(source), samples=4), inputs, arch=None)


def load(path: Path) -> object:
    return load_model(str(path))


def load_weights(path: Path) -> object:
    return load_model(str(path), arch="fuzz:net")  # this file, which lies where Python looks first


def bundle(folder: Path) -> bytes:
    create(make_build(folder / "build"), folder / "net.tar.zst")
    return (folder / "net.tar.zst").read_bytes()


def kit(folder: Path) -> bytes:
    """``finish.json`` with the files of its build."""
    build = make_build(folder)
    shape = InputShapes("x", (1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))
    wanted = Wanted("tensorrt-fp32", "TensorRT", "auto", Precision.FP32, ((shape,),))
    return write_finish_kit(
        build,
        model_name="net",
        onnx_by_precision={Precision.FP32: build / "net.onnx"},
        requests=[wanted],
        inputs=["x"],
        report_path=build / "report.json",
    ).read_bytes()


def text(parse: Callable[[str], object]) -> Callable[[Path], object]:
    return lambda path: parse(path.read_bytes().decode("utf-8", "replace"))


def sidecar(path: Path) -> object:
    found = read_sidecar(path.with_suffix(""))
    return found.built_for, found.tensors(path)


def make(target: str, folder: Path) -> Target:
    """Make the target: its files in ``folder``, and those next to the damaged one in ``case``."""
    case = folder / "case"
    build = make_build(folder / "build") if target in ("onnx", "sidecar") else folder
    engine = build / "net.fp16.sm_89.engine.json"
    made: dict[str, Callable[[], Target]] = {
        "report": lambda: Target(
            full_report().to_json().encode(), "report.json",
            lambda path: render_markdown(load_report(path)),
        ),
        "profile": lambda: Target(PROFILE, "p.toml", lambda path: read_profile(str(path))),
        "fleet": lambda: Target(FLEET, "fleet.toml", read_fleet),
        "input": lambda: Target(
            b"image=1x3x224x224:float32", "t", text(lambda one: InputSpec.parse([one]))
        ),
        "shapes": lambda: Target(
            b"a=1x3:2x3:4x3,b=1:2:3", "t", text(parse_profile)
        ),
        "limits": lambda: Target(
            b"onnxruntime=12.5", "t", text(lambda one: parse_row_limits([one]))
        ),
        "sidecar": lambda: Target(engine.read_bytes(), "net.engine.json", sidecar),
        "kit": lambda: Target(kit(case), "finish.json", lambda path: read_kit(path.parent)),
        "bundle": lambda: Target(
            bundle(folder), "b.tar.zst", lambda path: scan(path, Limits(total=1 << 28))
        ),
        "onnx": lambda: Target((build / "net.onnx").read_bytes(), "n.onnx", read_outline),
        "pickle": lambda: Target(saved(net()), "net.pt", load),
        "state-dict": lambda: Target(saved(net().state_dict()), "net.pt", load_weights),
        "acting-pickle": lambda: Target(pickle.dumps({"a": Runs()}, 2), "net.pt", load),
        "safetensors": lambda: Target(
            save_safetensors(dict(net().state_dict())), "net.safetensors", load_weights
        ),
        "torchscript": lambda: Target(scripted(), "net.ts.pt", load),
        "program": lambda: Target(program(), "net.pt2", load),
        "arrays": lambda: Target(arrays(), "a.npz", calibrate),
        "pictures": lambda: Target(picture(case), "p.png", lambda path: calibrate(path.parent)),
    }  # fmt: skip
    return made[target]()


TARGETS = (
    "report", "profile", "fleet", "input", "shapes", "limits", "sidecar", "kit", "bundle", "onnx",
    "pickle", "state-dict", "acting-pickle", "safetensors", "torchscript", "program", "arrays",
    "pictures",
)  # fmt: skip


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """The data after one to four changes: flipped bits, a cut, a splice, a repeated or a missing
    part.
    """
    data = bytearray(content)
    for _ in range(int(random.integers(1, 5))):
        at = int(random.integers(0, len(data) + 1))
        length = int(random.integers(1, 65))
        change = int(random.integers(0, 6))
        if change == 0 and data:
            data[at % len(data)] ^= 1 << int(random.integers(0, 8))
        elif change == 1:
            del data[at:]
        elif change == 2:
            data[at:at] = SPLICES[int(random.integers(0, len(SPLICES)))]
        elif change == 3:
            data[at:at] = data[at : at + length]
        elif change == 4:
            del data[at : at + length]
        else:
            data[at : at + length] = random.bytes(length)
    return bytes(data)


def main(target: str, cases: int, seed: int = 0) -> int:
    """Run the cases; 1 if there was a finding."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    # The checksums of an archive would refuse nearly every case before its content is read.
    format.check_sums = lambda archive: None
    warnings.simplefilter("ignore")
    random, accepted = np.random.default_rng(seed), 0
    findings = Path("fuzz-findings").absolute()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = make(target, folder)
        case = folder / "case"
        case.mkdir(exist_ok=True)
        path = case / one.name
        for index in range(cases):
            content = one.content if index == 0 else damaged(one.content, random)
            path.write_bytes(content)
            try:
                one.read(path)
                accepted += 1
            except DeployfoldError:
                pass
            except BaseException:
                findings.mkdir(exist_ok=True)
                (findings / f"{target}-{index}").write_bytes(content)
                traceback.print_exc()
                print(f"{target}: case {index} is a finding, left in {findings}")
                return 1
            if Path(MARKER).exists():
                print(f"{target}: case {index} ran code")
                return 1
            if index == 0 and accepted != (target != "acting-pickle"):
                print(f"{target}: what is not damaged is not taken as it should be")
                return 1
    print(f"{target}: {cases} cases, {accepted} accepted, {cases - accepted} refused in a sentence")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), *map(int, sys.argv[3:])))
