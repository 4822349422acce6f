"""``deployfold fold``, ``export``, ``bench`` and ``doctor``."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from cli_runs import FOLDED_PARAMETERS, SHAPE, check_whole, make, run

from deployfold import cli
from deployfold.cli.group import Command
from deployfold.cli.session import session

INPUT = ("--input", SHAPE)
BENCH = ("--threads", "1", "--max-seconds", "0.5")


def test_fold_explains_and_writes_nothing_unasked(folder, tmp_path):
    shutil.copy(folder / "net.pt", tmp_path)
    done = run("fold", "net.pt", "--explain", *INPUT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    words = [line.split() for line in done.stdout.splitlines()]
    assert ["1", "0", "into", "the", "producer"] in words
    assert ["4", "3", "into", "the", "producer"] in words
    assert "2 of 2 BatchNorm, 16 parameters fewer" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


def test_fold_writes_a_module_that_loads(folder, tmp_path):
    path = tmp_path / "new" / "folded.pt"
    done = run("fold", "net.pt", "-o", str(path), *INPUT, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"Folded module: {path}" in done.stdout
    assert "into the producer" not in done.stdout, "the list is for --explain"
    folded, x = torch.load(path, weights_only=False), torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(folded(x), make()(x), rtol=1e-4, atol=1e-5)
    assert sum(value.numel() for value in folded.parameters()) == FOLDED_PARAMETERS


def test_export_with_a_dynamic_batch(folder, tmp_path):
    done = run(
        "export", "net.pt", "--dynamic-batch", "1:2:4", "-o", str(tmp_path), "--json", *INPUT,
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {row["not_measured"] for row in report["rows"]} == {"no measurement was requested"}
    assert check_whole(tmp_path) == {
        "net.folded.pt", "net.onnx", "net.pt2", "net.ts.pt", "report.json", "report.md",
        "preprocess.json", "reference.npz",
    }  # fmt: skip
    program = torch.export.load(tmp_path / "net.pt2").module()
    script = torch.jit.load(str(tmp_path / "net.ts.pt"))
    for batch in (1, 4):
        x = torch.randn(batch, 3, 16, 16)
        for module in (program, script):
            torch.testing.assert_close(module(x), make()(x), rtol=1e-4, atol=1e-5)


def test_bench_of_a_build_measures_its_rows_again(folder, built):
    done = run("bench", "out", "--json", *BENCH, cwd=folder)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == [
        "pytorch", "folded", "torchscript", "program", "onnxruntime", "onnxruntime-fp16",
        "tensorrt-fp16-sm_89",
    ]  # fmt: skip
    assert report["inputs"][0]["shape"] == [2, 3, 16, 16]
    assert report["source"]["path"] == "net.pt"
    for name in ("pytorch", "folded", "torchscript", "program", "onnxruntime"):
        assert rows[name]["latency"]["median_ms"] > 0, name
    assert rows["folded"]["accuracy"]["max_abs_diff"] < 1e-4
    assert "fp16 kernels" in rows["onnxruntime-fp16"]["not_measured"]
    assert "sm_89" in rows["tensorrt-fp16-sm_89"]["not_measured"]


def test_bench_reads_the_shape_from_an_onnx(folder, built):
    done = run("bench", "out/net.onnx", "out/net.ts.pt", "out/net.pt2", *BENCH, cwd=folder)
    assert done.returncode == 0, done.stderr
    for name in ("net.onnx", "net.ts.pt", "net.pt2", "2x3x16x16", "baseline"):
        assert name in done.stdout
    assert "not measured" not in done.stdout
    closing = done.stdout.rpartition("╯")[2].split()
    if closing[0] == "Take":  # a busy machine may find nothing faster
        assert "next: deployfold run out/net." in done.stdout


def test_doctor_names_what_works(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    done = run("doctor", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert checks["torch"]["state"] == "ok"
    assert checks["torch"]["detail"] == torch.__version__.partition("+")[0]
    assert checks["TensorRT-RTX"] == {
        "name": "TensorRT-RTX", "state": "ok", "detail": "builds a test engine",
    }  # fmt: skip
    plain = run("doctor", cwd=tmp_path).stdout
    assert all(name in plain for name in checks)


def test_doctor_goes_on_where_onnx_runtime_cannot_be_imported(tmp_path):
    broken = tmp_path / "site" / "onnxruntime"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libcudart.so.99 is missing')")
    done = run("doctor", "--json", cwd=tmp_path, installed=True, PYTHONPATH=str(broken.parent))
    assert done.returncode == 0, done.stderr
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert found["onnxruntime"]["state"] == "missing"
    assert "libcudart.so.99 is missing" in found["onnxruntime"]["detail"]
    assert found["timm"]["state"] == "ok"


@pytest.mark.parametrize(
    "moment", [(cli, "_use_utf8"), (Command, "make_context"), (Command, "invoke")]
)
def test_ctrl_c_before_a_command_runs_is_a_sentence(moment, monkeypatch, capsys):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*moment, interrupted)
    monkeypatch.setattr("sys.argv", ["deployfold", "targets"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "Error: Interrupted.\n")


@pytest.mark.parametrize("cause", [None, KeyboardInterrupt()])
def test_an_interrupt_within_a_session_is_reported_once(cause, monkeypatch, capsys):
    def interrupted(*_: object, **__: object) -> None:
        with session():
            raise KeyboardInterrupt if cause is None else ImportError("no start") from cause

    monkeypatch.setattr(Command, "invoke", interrupted)
    monkeypatch.setattr("sys.argv", ["deployfold", "targets"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    expected = capsys.readouterr().err
    assert (ended.value.code, expected.count("Error: "), expected.count("Interrupted.")) == (
        130,
        1,
        1,
    )


def test_bench_tells_the_time_of_each_module_and_writes_it_for_nvidias_tools(
    folder, built, tmp_path
):
    onnx = folder / "out" / "net.onnx"
    done = run("bench", str(onnx), *BENCH, "--layers", "--export-layers", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "time by module" in done.stdout
    assert "Conv" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "net.onnx.layers.json", "net.onnx.profile.json",
    ]  # fmt: skip

    done = run("bench", str(onnx), *BENCH, "--export-layers", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "--export-layers writes what --layers measures" in done.stderr
