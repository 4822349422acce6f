"""``deployfold run``: one inference of every kind of artifact."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from cli_runs import fails, make, run

from deployfold.targets.machine import detect

X = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)


def ran(*words, cwd):
    done = run("run", *words, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_file_goes_in_and_a_file_comes_out(folder, built, tmp_path):
    np.save(tmp_path / "x.npy", X)
    words = ("--input", str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npz"))
    found = ran("out/net.onnx", *words, cwd=folder)
    (given,), (output,) = found["inputs"], found["outputs"]
    assert (given["shape"], given["data"]) == ([2, 3, 16, 16], str(tmp_path / "x.npy"))
    with np.load(tmp_path / "y.npz") as saved:
        values = saved[output["name"]]
    expected = make()(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4)
    classes = [[index for index, _ in sample] for sample in output["top"]]
    assert classes == np.argsort(-values, axis=1)[:, :5].tolist()


def test_without_an_input_it_is_random_and_says_so(folder, built):
    done = run("run", "out/net.onnx", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "2x3x16x16 float32, seeded random (seed 0)" in done.stdout
    assert "sample 0, classes of the greatest outputs:" in done.stdout


@pytest.mark.skipif(detect().gpu is not None, reason="there is a GPU here")
def test_an_engine_says_where_it_would_run(folder, built):
    fails(
        run("run", "out/net.fp16.sm_89.engine", cwd=folder),
        8, "was built for sm_89, but this machine has no such GPU",
    )  # fmt: skip


def test_mistakes_are_errors_before_torch_is_imported(tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    for words, part in (
        (("--input", "gone.npy"), "Cannot read gone.npy"),
        (("-o", "y.txt"), "neither an .npz nor an .npy"),
    ):
        done = run(
            "run", "net.onnx", *words, cwd=tmp_path, installed=True, PYTHONPATH=str(tmp_path)
        )
        fails(done, 2, part)
