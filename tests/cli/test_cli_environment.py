"""Without optional packages, without a home, and in odd locales, terminals and paths."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_runs import DEPLOYFOLD, QUICK, SHAPE, check_whole, environment, fails, make, run

from deployfold.reporting.report import load_report

OPTIONAL = "jinja2 backports cyclonedx timm torchvision distributed tensorrt torch_tensorrt"
COMMANDS = """\
import sys
from itertools import groupby
from deployfold.cli import main

for ends, words in groupby(sys.argv[1:], ";".__eq__):
    if not ends:
        sys.argv = ["deployfold", *words]
        try:
            main()
        except SystemExit as end:
            assert not end.code, sys.argv
"""
FLEET = '[[model]]\nsource = "net.pt"\n[build]\nno-measure = true\ninput = ["2x3x16x16"]\n'


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """``without("timm jinja2")``: variables with which Python finds none of these packages."""
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(
        "import os\nfrom importlib.machinery import PathFinder\n"
        "missing, find = os.environ['MISSING'].split(), PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *a: None if name in missing else find(name, *a)\n"
    )
    return lambda packages: {"PYTHONPATH": str(site), "MISSING": packages}


@pytest.mark.parametrize(
    ("package", "words", "code", "expected"),
    [
        ("jinja2", ("report", "out", "--html"), 2, "deployfold[report]"),
        ("backports", ("bundle", "out", "-o", "b.tar.zst"), 10, "deployfold[bundle]"),
        ("cyclonedx", ("bundle", "out", "-o", "b.tar.zst"), 10, "deployfold[bundle]"),
        ("timm", ("fold", "timm:resnet18"), 2, "deployfold[zoo]"),
        ("torchvision", ("fold", "torchvision:resnet18"), 2, "deployfold[zoo]"),
        ("distributed", ("sweep", "f.toml", "--scheduler", "dask://h:1"), 2, "deployfold[dask]"),
        ("safetensors", ("fold", "net.safetensors", "--arch", "a.b:c"), 2, "needs safetensors"),
        ("PIL", ("build", "net.pt", "--int8", "--calib", "pictures"), 2, "needs pillow"),
        ("onnxruntime", ("run", "out/net.onnx"), 2, "needs onnxruntime"),
        ("torch", ("build", "net.pt"), 2, "needs torch"),
    ],
)
def test_a_missing_package_is_named(folder, built, without, package, words, code, expected):
    (folder / "f.toml").write_text(FLEET)
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / "net.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (folder / "pictures" / "a.png").touch()
    fails(run(*words, cwd=folder, **without(package)), code, expected, "pip install")
    assert not (folder / "r.html").exists()
    assert not (folder / "b.tar.zst").exists()


def test_a_build_needs_no_optional_package(folder, without, tmp_path):
    build = ("build", "net.pt", "--fp16", "--target", "l4", "--no-measure", "-o", str(tmp_path))
    done = run(*build, *QUICK, cwd=folder, **without(OPTIONAL))
    assert done.returncode == 0, done.stderr
    assert "net.fp16.sm_89.engine" in check_whole(tmp_path)


def test_without_a_compiler_the_row_says_what_to_install(folder, without, tmp_path):
    build = ("build", "net.pt", "--target", "l4", "--no-measure", "-o", str(tmp_path))
    done = run(*build, *QUICK, cwd=folder, **without("tensorrt_rtx"))
    assert done.returncode == 0, done.stderr
    (row,) = (row for row in load_report(tmp_path).rows if row.name.startswith("tensorrt"))
    assert "pip install tensorrt-rtx" in str(row.not_measured)
    assert (tmp_path / "finish.json").exists()


@pytest.mark.parametrize(
    "home",
    [
        pytest.param(None, marks=pytest.mark.slow),
        "/sys",
        pytest.param("/nowhere", marks=pytest.mark.slow),
    ],
    ids=["unset", "read-only", "missing"],
)
def test_without_a_home_to_write_to(folder, tmp_path, home):
    """INT8 stores its calibration cache in the home directory, and works without the cache."""
    words = ("--int8", "--calib", "random", "--no-guard", "--no-engine", "--no-measure")
    changes = {"HOME": home, "XDG_CACHE_HOME": None, "XDG_CONFIG_HOME": None}
    installed = home == "/sys"  # the imports have no home to write to either
    out = ("-o", str(tmp_path))
    done = run("build", "net.pt", *words, *QUICK, *out, cwd=folder, installed=installed, **changes)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "r.html"
    words = ("report", str(tmp_path), "-o", str(page))
    done = run(*words, cwd=folder, installed=installed, **changes)
    assert done.returncode == 0, done.stderr
    assert page.read_text().rstrip().endswith("</html>")


@pytest.fixture(scope="module")
def abroad(tmp_path_factory) -> Path:
    """A directory and a model whose names hold spaces and letters beyond ASCII."""
    folder = tmp_path_factory.mktemp("mes modèles 模型")
    torch.save(make(), folder / "réseau net.pt")
    return folder


@pytest.mark.parametrize(
    "locale",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None},
    ],
    ids=["utf-8", "ascii"],
)
def test_paths_with_spaces_and_other_letters(abroad, locale, tmp_path):
    """One process runs all the commands, whose words it takes from its own command line."""
    place = tmp_path / "résultat 1"
    build = ("--fp16", "--target", "l4", "--target", "h100", "--no-measure", "-o", str(place))
    steps = [
        ("build", "réseau net.pt", "--input", SHAPE, *build),
        ("finish", str(place), "--target", "l4"),
        ("run", str(place / "r_seau_net.onnx"), "-o", str(tmp_path / "été.npz")),
        ("report", str(place), "--output", str(tmp_path / "page à lire.html")),
        ("bundle", str(place), "-o", str(tmp_path / "un paquet é.tar.zst")),
        ("bundle", "unpack", str(tmp_path / "un paquet é.tar.zst"), str(tmp_path / "déballé")),
    ]
    words = [word for step in steps for word in (*step, ";")]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *words], cwd=abroad, env=environment(**locale),
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "Warning:" not in done.stderr, done.stderr
    check_whole(place)
    assert (tmp_path / "été.npz").exists()
    assert "réseau net.pt" in (tmp_path / "page à lire.html").read_text(encoding="utf-8")
    assert (tmp_path / "déballé" / "run.py").exists()


def test_a_narrow_terminal(folder, built):
    """Columns that do not fit are left out, and sentences are broken, but not commands."""
    for words in (("report", "out"), ("targets",), ("build", "--help")):
        done = run(*words, cwd=folder, COLUMNS="40")
        assert done.returncode == 0, done.stderr
        copied = ("Its file is ", "Artifacts and report.json: ", "next: ")
        lines = [line for line in done.stdout.splitlines() if not line.startswith(copied)]
        wide = [line for line in lines if len(line) > 40]
        assert not wide, (words, wide)


def test_with_all_streams_closed(folder, tmp_path):
    """Some service managers close all streams; the file is written nevertheless."""
    command = f"exec '{DEPLOYFOLD}' run out/net.onnx -o '{tmp_path}/y.npz' <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", command], cwd=folder, env=environment(), check=False)
    assert done.returncode == 0
    assert (tmp_path / "y.npz").exists()


@pytest.mark.parametrize("words", ["targets", "doctor", f"build net.pt --input {SHAPE}"])
def test_in_a_directory_that_was_removed(words, tmp_path):
    """torch alone would end the process here, with a message about Intel's libraries."""
    (tmp_path / "gone").mkdir()
    command = f"cd gone && rmdir ../gone && exec '{DEPLOYFOLD}' {words}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=environment(), capture_output=True,
        encoding="utf-8", check=False,
    )  # fmt: skip
    fails(done, 2, "The working directory cannot be used: No such file or directory.")
