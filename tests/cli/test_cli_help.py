"""The help: its content, its imports, and its streams."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from cli_runs import colours, environment, fails, run

from deployfold import __version__
from deployfold.cli.discovery import load, names, summary
from deployfold.config.build_options import build_options
from deployfold.errors import ExitCode
from deployfold.util.toml import parse_toml

HEAVY = (
    "torch", "numpy", "onnx", "onnxruntime", "onnxscript", "tensorrt", "tensorrt_rtx", "pydantic",
    "torchvision", "timm",
)  # fmt: skip


@pytest.mark.parametrize("words", [(), *((command,) for command in names())])
def test_help_lists_every_exit_code(words, tmp_path):
    done = run(*words, "--help", cwd=tmp_path)
    assert done.returncode == 0
    _, codes = " ".join(done.stdout.split()).split("Exit codes: ")
    for code in ExitCode:
        assert f"{int(code)} " in codes, code
    if not words:
        assert all(f"│ {command} " in done.stdout for command in names())


@pytest.mark.parametrize("flag", ["--help", "--help-all"])
def test_help_shows_flags_without_values(flag, tmp_path):
    text = run("build", flag, cwd=tmp_path).stdout
    assert "<bool>" not in text
    assert "--no-trust" not in text
    assert ("package.module:factory" in text) == (flag == "--help-all")


def test_help_of_build_fits_a_screen_and_the_rest_has_a_flag_of_its_own(tmp_path):
    short = run("build", "--help", cwd=tmp_path, COLUMNS="80").stdout
    whole = run("build", "--help-all", cwd=tmp_path, COLUMNS="80").stdout
    assert len(short.splitlines()) <= 60
    assert max(map(len, short.splitlines())) <= 80
    assert "--help-all" in short
    words = set(whole.split())
    for one in build_options():
        assert one.flag in words | {word.split(",")[0] for word in words}, one.flag
        assert (f" {one.flag} " in short) == one.common, one.flag


def test_square_brackets_are_no_markup(tmp_path):
    text = run("sweep", "--help", cwd=tmp_path, COLUMNS="80").stdout
    lines = [line.strip().partition("  #")[0].rstrip() for line in text.splitlines()]
    start = lines.index('precisions = ["fp16", "int8"]')
    fleet = "\n".join(lines[start : lines.index('source = "torchvision:resnet18"') + 1])
    assert parse_toml(fleet) == {
        "precisions": ["fp16", "int8"], "targets": ["l4", "rtx4090"],
        "build": {"no-measure": True, "calib": "pictures"},
        "model": [{"source": "torchvision:resnet18"}],
    }  # fmt: skip


def test_every_command_has_a_summary_that_its_own_help_begins_with(tmp_path):
    """The summaries are read from the files, without importing them."""
    table = " ".join(run("--help", cwd=tmp_path, COLUMNS="200").stdout.split())
    for name in names():
        assert summary(name) in table
        assert summary(name).endswith(".")
        assert load(name).help.startswith(summary(name))


def test_version(tmp_path):
    assert run("--version", cwd=tmp_path).stdout == f"deployfold {__version__}\n"
    module = subprocess.run(
        [sys.executable, "-m", "deployfold", "--version"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert module.stdout == f"deployfold {__version__}\n"


@pytest.mark.parametrize("words", [["--help"], ["build", "--help"], ["--version"]])
def test_nothing_heavy_is_imported_for_help(words):
    """Light imports keep --help under 0.3 s. A measured time would depend on other programs."""
    code = (
        "import sys\n"
        "from deployfold.cli import main\n"
        f"sys.argv = ['deployfold', *{words!r}]\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        f"print('HEAVY', sorted({set(HEAVY)!r} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_building_the_application_imports_nothing_heavy():
    code = (
        "import sys, typer, deployfold.cli.app as cli\n"
        "typer.main.get_command(cli.app)\n"
        f"print(sorted({set(HEAVY)!r} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_unknown_words_are_usage_errors(tmp_path):
    for words in (("nothing",), ("build",), ("build", "x.pt", "--nothing"), ("bench",)):
        done = run(*words, cwd=tmp_path)
        assert done.returncode == 2, words
        assert done.stdout == ""


def test_completion_can_be_shown(tmp_path):
    done = run("--show-completion", cwd=tmp_path, SHELL="/bin/bash")
    # typer finds the shell among the parent processes; a test has none at times.
    assert done.returncode in (0, 1)
    script = run(cwd=tmp_path, _DEPLOYFOLD_COMPLETE="source_bash")
    assert "_DEPLOYFOLD_COMPLETE" in script.stdout


def test_targets_lists_gpus_and_what_builds_for_them(tmp_path):
    gpus = json.loads(run("targets", "--json", cwd=tmp_path).stdout)
    by_name = {gpu["name"]: gpu for gpu in gpus}
    assert len(gpus) >= 60
    assert by_name["l4"]["compute_capability"] == "8.9"
    assert by_name["l4"]["compiler"] == "tensorrt_rtx"
    assert by_name["h100"]["compiler"] is None
    assert "sm_90" in by_name["h100"]["reason"]
    assert all(gpu["source"].startswith("https://") for gpu in gpus)
    table = run("targets", cwd=tmp_path).stdout
    assert all(gpu["title"] in table for gpu in gpus)
    narrow = run("targets", cwd=tmp_path, COLUMNS="80").stdout
    assert max(map(len, narrow.splitlines())) <= 80


def test_colours_can_be_off(tmp_path):
    assert "\x1b" not in run("targets", cwd=tmp_path).stdout, "not on a pipe"
    assert colours(run("targets", cwd=tmp_path, FORCE_COLOR="1").stdout)
    assert not colours(run("targets", "--no-color", cwd=tmp_path, FORCE_COLOR="1").stdout)
    assert not colours(run("targets", cwd=tmp_path, FORCE_COLOR="1", NO_COLOR="1").stdout)
    error = ("build", "nothing.pt", "--input", "x")
    assert colours(run(*error, cwd=tmp_path, FORCE_COLOR="1").stderr)
    assert not colours(run(*error, "--no-color", cwd=tmp_path, FORCE_COLOR="1").stderr)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_in_a_destructor_is_not_lost(name):
    """Python drops the exception there, and would print it as a traceback."""
    code = (
        "import signal, time\nfrom deployfold.cli.session import session\n"
        # A shell that runs the tests in the background has Ctrl-C ignored, and children inherit it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"class Dying:\n    def __del__(self):\n        signal.raise_signal(signal.{name})\n"
        "with session() as run:\n    Dying()\n    time.sleep(30)\n"
    )
    start = time.monotonic()
    done = python(code)
    fails(done, 130, "Interrupted.")
    assert "ignored" not in done.stderr
    assert time.monotonic() - start < 25, "it slept to the end"


@pytest.mark.parametrize(
    "body",
    [
        # The exporters' chatter is kept away so, and an interrupt can come before that is undone.
        "sys.stderr = io.StringIO(); raise KeyboardInterrupt",
        # What pybind11 makes of one.
        "raise ImportError('initialization failed') from KeyboardInterrupt()",
    ],
    ids=["while stderr leads elsewhere", "as an import error"],
)
def test_an_interrupt_is_reported(body):
    code = f"import io, sys\nfrom deployfold.cli.session import session\nwith session(): {body}\n"
    fails(python(code), 130, "Interrupted.")
