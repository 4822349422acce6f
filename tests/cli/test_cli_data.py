"""Real inputs, build profiles and batch sweeps through the installed command."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from cli_runs import QUICK, run


@pytest.fixture
def data(folder, tmp_path):
    shutil.copy(folder / "net.pt", tmp_path)
    samples = np.random.default_rng(0).standard_normal((12, 3, 16, 16)).astype("float32")
    np.save(tmp_path / "samples.npy", samples)
    (tmp_path / "labels.txt").write_text("\n".join(["3"] * 12))
    return tmp_path


def test_outputs_are_compared_on_the_data(data):
    done = run(
        "build", "net.pt", "--input-data", "samples.npy", "--labels", "labels.txt", "--no-engine",
        "--json", *QUICK, cwd=data,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["input_data"] == "12 of 12 samples of samples.npy"
    by_name = {row["name"]: row for row in report["rows"]}
    assert by_name["onnxruntime"]["accuracy"]["samples"] == 12
    assert by_name["onnxruntime"]["accuracy"]["top1_agreement"] == 1.0
    right = by_name["pytorch"]["accuracy"]["accuracy"]
    assert 0.0 <= right <= 1.0
    assert by_name["folded"]["accuracy"]["accuracy"] == right
    assert report["fold"]["verification"]["inputs"] == 7  # six feeds of two, and a random one


def test_fold_is_verified_on_the_data(data):
    done = run(
        "fold", "net.pt", "--input", "1x3x16x16", "--input-data", "samples.npy", "--json", cwd=data
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fold"]["verification"]["inputs"] == 9  # at most 8 of them


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--input-data", "nothing.npy"), "does not exist"),
        (("--input-data", "labels.txt"), "labels.txt"),
        (("--input-data", "random"), "Random"),
        (("--int8",), "needs data to calibrate on"),
        (("--profile", "nothing"), "no build profile"),
        (("--batch", "1,0"), "different positive integers"),
        (("--sort", "colour"), "colour"),
    ],
)
def test_wrong_data_is_a_sentence(data, words, part):
    done = run("build", "net.pt", *words, "--no-engine", *QUICK, cwd=data)
    assert done.returncode == 2
    assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_a_profile_and_the_flags_that_override_it(data):
    (data / "mine.toml").write_text(
        'fp16 = true\nno-engine = true\ninput = ["2x3x16x16"]\nthreads = 1\nmax-seconds = 0.5\n'
    )
    done = run("build", "net.pt", "--profile", "mine.toml", "--io", "fp16", "--json", cwd=data)
    assert done.returncode == 0, done.stderr
    names = [row["name"] for row in json.loads(done.stdout)["rows"]]
    assert "onnxruntime-fp16" in names
    assert not any(name.startswith("tensorrt") for name in names)
    done = run("profile", "show", "mine.toml", "--io", "fp16", "--json", cwd=data)
    shown = json.loads(done.stdout)
    assert shown["fp16"] == {"value": True, "from": "profile mine.toml"}
    assert shown["io"] == {"value": "fp16", "from": "flag"}
    assert shown["timeout"]["from"] == "default"
    (data / "mine.toml").write_text("fp16 = true\nfp32 = true\n")
    done = run("build", "net.pt", "--profile", "mine.toml", cwd=data)
    assert done.returncode == 2
    assert "mine.toml, line 2" in done.stderr


def test_profiles_are_listed(data):
    done = run("profile", "list", cwd=data)
    assert done.returncode == 0
    assert "server-fp16" in done.stdout


def test_throughput_by_batch(data):
    done = run(
        "build", "net.pt", "--dynamic-batch", "1:2:4", "--batch", "1,4", "--no-engine", "--json",
        *QUICK, cwd=data,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert [point["batch"] for point in rows["onnxruntime"]["sweep"]] == [1, 4]
