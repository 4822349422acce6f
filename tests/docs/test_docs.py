"""Every command and every line of Python in the README and in ``docs/`` runs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import onnx_files
import pytest
import qat_nets
import torch
from cli_runs import run
from PIL import Image
from torch import nn

ROOT = Path(__file__).parents[2]
PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
BLOCKS = [
    block for page in PAGES.values() for block in re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)
]
# A profile is written before it is used, and a directory built before a command that reads it.
FIRST = ("init", "build")
COMMANDS = sorted(
    {
        line.partition("  #")[0].strip()
        for language, block in BLOCKS
        if language == "sh"
        for line in block.splitlines()
        if line.startswith("deployfold ")
    },
    key=lambda command: (
        FIRST.index(command.split()[1]) if command.split()[1] in FIRST else len(FIRST),
        command,
    ),
)
QUICK = ("--input 1x3x64x64", "--max-seconds 0.2")


def test_the_readme_is_short_and_shows_a_table():
    assert len(COMMANDS) >= 20
    assert "PyTorch (original)" in PAGES["README.md"]
    assert len(PAGES["README.md"].encode()) <= 8192


@pytest.mark.parametrize("name", PAGES)
def test_every_link_has_a_target(name: str) -> None:
    home = ROOT if name == "README.md" else ROOT / "docs"
    links = re.findall(r"\]\(([^)#:]+)\)", PAGES[name])
    missing = [link for link in links if not (home / link).exists()]
    assert not missing


def test_every_message_of_the_troubleshooting_page_is_in_the_code() -> None:
    messages = re.findall(r"^\*\*`(.+?)`\*\*", PAGES["troubleshooting.md"], re.MULTILINE)
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "deployfold").rglob("*.py"))
    # A sentence may be split over the lines of a string.
    joined = re.sub(r'"\s+f?"', "", sources)
    assert len(messages) >= 8
    assert [message for message in messages if message not in joined] == []


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the checkpoints that the commands name, of small networks."""
    timm = pytest.importorskip("timm")
    folder = tmp_path_factory.mktemp("readme")
    torch.manual_seed(0)
    torch.save(_stand_in().eval(), folder / "resnet50.pt")
    torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), folder / "weights.pth")
    torch.save(qat_nets.trained().state_dict(), folder / "trained.pt")
    (folder / "my_package").mkdir()
    shutil.copy(qat_nets.__file__, folder / "my_package" / "nets.py")
    onnx_files.save(onnx_files.detector(size=64), folder / "detector.onnx")
    (folder / "fleet.toml").write_text(dict(BLOCKS)["toml"], encoding="utf-8")
    (folder / "pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 12, 3), np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).resize((96, 72)).save(folder / "pictures" / f"{index}.jpg")
    return folder


def _stand_in() -> nn.Module:
    """A small network, since nearly every command builds it."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2),
        nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, workplace: Path) -> None:
    words = shlex.split(command)
    shaped = words[1] in ("build", "fold", "export") or "--layers" in words
    if shaped and "--input" not in words:
        words += shlex.split(QUICK[0])
    if words[1] in ("build", "bench"):
        words += shlex.split(QUICK[1])
    if "old/report.json" in words:  # the report of an earlier build
        (workplace / "old").mkdir(exist_ok=True)
        shutil.copy(workplace / "build" / "resnet50" / "report.json", workplace / "old")
    done = run(*words[1:], cwd=workplace)
    assert done.returncode == 0, done.stderr


def test_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    code = "\n".join(block for language, block in BLOCKS if language == "python")
    assert "deployfold.fold" in code
    monkeypatch.chdir(tmp_path)
    exec(code, {"__name__": "__main__"})
    assert (tmp_path / "exported" / "resnet18.onnx").is_file()


def test_exit_codes_are_those_of_the_code() -> None:
    from deployfold.errors import ExitCode

    table = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGES["pipelines.md"], re.MULTILINE)}
    assert table == {int(code) for code in ExitCode}


def test_every_promise_has_its_test() -> None:
    section = PAGES["promises.md"]
    promises = re.findall(r"^\| .* \| `(.+?)::(.+?)` \|$", section, re.MULTILINE)
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(promises) == len(rows) - 1 >= 20  # the first row is the head
    for path, name in promises:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert f"\ndef {name}(" in source, f"{path}::{name}"
