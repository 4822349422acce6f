"""``deployfold build``, from a checkpoint to the report, with every artifact on the way."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from cli_runs import FOLDED_PARAMETERS, PARAMETERS, QUICK, SHAPE, check_whole, make, run

from deployfold.building.fold_file import fold_file
from deployfold.config.build_spec import BuildSpec
from deployfold.config.inputs import InputSpec
from deployfold.reporting.report import load_report

WHOLE = {
    "net.folded.pt", "net.ts.pt", "net.pt2", "net.onnx", "net.fp16.onnx", "net.fp16.sm_89.engine",
    "net.fp16.sm_89.engine.json", "net.fp16.sm_89.engine.log", "finish.json", "reference.npz",
    "preprocess.json",
    "report.json", "report.md",
}  # fmt: skip


def test_every_artifact_is_there_and_can_be_used(folder, built):
    assert built.returncode == 0, built.stderr
    assert check_whole(folder / "out") == WHOLE
    x = torch.randn(2, 3, 16, 16)
    folded = torch.load(folder / "out" / "net.folded.pt", weights_only=False)
    torch.testing.assert_close(folded(x), make()(x), rtol=1e-4, atol=1e-5)
    assert sum(value.numel() for value in folded.parameters()) == FOLDED_PARAMETERS


def test_the_report_says_what_was_built(folder, built):
    report = load_report(folder / "out" / "report.json")
    assert report.status.state == "complete"
    assert [(item.name, item.into) for item in report.fold.folded] == [("1", "0"), ("4", "3")]
    assert report.fold.left == ()
    assert report.fold.verification.float64_relative_difference < 1e-9
    assert report.source.kind == "module"
    assert report.inputs[0].shape == (2, 3, 16, 16)
    rows = {row.name: row for row in report.rows}
    assert list(rows) == [
        "pytorch", "folded", "torchscript", "program", "onnxruntime", "onnxruntime-fp16",
        "tensorrt-fp16-sm_89", "tensorrt-fp16-h100", "tensorrt-fp16-jetson-orin-nano",
    ]  # fmt: skip
    for row in report.rows:
        assert (row.latency is None) == (row.not_measured is not None), row.name
        if row.artifact is not None:
            assert (folder / "out" / row.artifact).stat().st_size == row.bytes
    for name in ("pytorch", "folded", "torchscript", "program", "onnxruntime"):
        assert rows[name].latency.median_ms > 0
    for name in ("folded", "torchscript", "program", "onnxruntime", "onnxruntime-fp16"):
        assert 0 <= rows[name].accuracy.max_abs_diff < 0.05, name
        assert rows[name].parameters == FOLDED_PARAMETERS
        assert rows[name].batchnorm_layers == 0
    assert (rows["pytorch"].parameters, rows["pytorch"].batchnorm_layers) == (PARAMETERS, 2)
    assert [result.passed for result in report.thresholds] == [True, True]
    assert [stage.stage for stage in report.stages] == [
        "load", "fold", "export", "lower", "compile", "measure",
    ]  # fmt: skip
    for stage in report.stages:
        assert stage.seconds > 0
        assert 50e6 < stage.peak_bytes < 20e9, stage


def test_targets_without_a_compiler_say_why(folder, built):
    rows = {row.name: row for row in load_report(folder / "out" / "report.json").rows}
    assert "built for sm_89; measure it there" in rows["tensorrt-fp16-sm_89"].not_measured
    for gpu, sm in (("h100", "sm_90"), ("jetson-orin-nano", "sm_87")):
        row = rows[f"tensorrt-fp16-{gpu}"]
        assert row.artifact is None
        assert f"No engine for {sm}" in row.not_measured
        assert "deployfold finish" in row.not_measured
        assert f"No engine for {sm}" in " ".join(built.stdout.split())
        assert f"No engine for {sm}" in " ".join(built.stderr.split())


def test_the_table_and_the_progress_stand_on_their_own_streams(folder, built):
    report = load_report(folder / "out" / "report.json")
    for row in report.rows:
        assert row.title in built.stdout, row.title
    assert f"{PARAMETERS:,}" in built.stdout
    assert "; report.json is beside it." in built.stdout
    stages = [line.split()[1] for line in built.stderr.splitlines() if line.startswith("✓")]
    assert stages == ["load", "fold", "export", "lower", "compile", "measure"]
    assert "✓" not in built.stdout
    assert "\x1b" not in built.stdout + built.stderr
    assert max(map(len, built.stdout.splitlines())) <= 120


def test_a_second_run_over_the_same_directory_as_json(folder, built, tmp_path):
    """Narrow, without an engine: what the first run made is replaced or kept, and stays whole."""
    shutil.copytree(folder / "out", tmp_path / "again")
    again = run(
        "build", "net.pt", "--no-engine", "--json", "-o", str(tmp_path / "again"), *QUICK,
        cwd=folder, COLUMNS="80",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == json.loads((tmp_path / "again" / "report.json").read_text())
    assert "✓ measure" in again.stderr
    names = [row.name for row in load_report(tmp_path / "again" / "report.json").rows]
    assert names == ["pytorch", "folded", "torchscript", "program", "onnxruntime"]
    assert check_whole(tmp_path / "again") == WHOLE


def test_one_engine_for_every_current_gpu_without_a_target(folder, tmp_path):
    done = run(
        "build", "net.pt", "--no-measure", "-o", str(tmp_path), "--dynamic-batch", "1:2:4", *QUICK,
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row.name: row for row in load_report(tmp_path / "report.json").rows}
    engine = rows["tensorrt-fp32"]
    sidecar = json.loads((tmp_path / f"{engine.artifact}.json").read_text())
    if sidecar["current_gpu"] is False:
        assert sidecar["compute_capabilities"] == ["8.0", "8.6", "8.9", "12.0"]
    ((profile,),) = sidecar["profiles"]
    assert (profile["min"][0], profile["opt"][0], profile["max"][0]) == (1, 2, 4)
    assert rows["onnxruntime"].latency is None
    assert rows["onnxruntime"].not_measured == "no measurement was requested"
    check_whole(tmp_path)


@pytest.mark.parametrize(
    ("source", "arch", "kind"),
    [
        ("net.pt", None, "module"),
        ("weights.pth", "cli_nets:make", "state_dict"),
        ("script.ts.pt", None, "torchscript"),
        ("program.pt2", None, "program"),
    ],
)
def test_every_form_of_the_net_folds_to_the_same_count(folder, monkeypatch, source, arch, kind):
    """The test runs in this process, which has already imported torch."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    report = fold_file(BuildSpec(source=source, arch=arch, inputs=InputSpec.parse([SHAPE])), None)
    assert report.source.kind == kind
    fold = report.fold
    assert (fold.parameters_before, fold.parameters_after) == (PARAMETERS, FOLDED_PARAMETERS)
    assert (len(fold.folded), fold.left) == (2, ())


def test_torchscript_is_built_and_torchs_warnings_are_not_shown(folder, tmp_path):
    """torch warns at every use that TorchScript is deprecated; ``run`` fails on warnings."""
    words = ("--no-engine", "--no-measure", "-o", str(tmp_path))
    done = run("build", "script.ts.pt", *words, "--input", SHAPE, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert check_whole(tmp_path) >= {"script.folded.pt", "script.ts.pt", "script.onnx"}


def test_a_state_dict_is_folded_with_its_architecture(folder):
    """The architecture is in the working directory, as for ``python -m``."""
    done = run(
        "fold", "weights.pth", "--arch", "cli_nets:make", "--json", "--input", SHAPE, cwd=folder
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fold"]["parameters_after"] == FOLDED_PARAMETERS


@pytest.mark.slow
def test_resnet50_for_an_l4(tmp_path):
    """The acceptance test of the main job; its engine is 51 or 52 MB of fp16 weights."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet50(weights=None).eval(), tmp_path / "resnet50.pt")
    done = run(
        "build", "resnet50.pt", "--fp16", "--target", "l4", "--max-seconds", "10", "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    fold = report["fold"]
    assert fold["parameters_before"] - fold["parameters_after"] == 26_560
    assert (fold["batchnorm_before"], fold["left"]) == (53, [])
    rows = {row["name"]: row for row in report["rows"]}
    assert 50e6 < rows["tensorrt-fp16"]["bytes"] < 55e6
    assert rows["onnxruntime-fp16"]["accuracy"]["sqnr_db"] > 40
    check_whole(tmp_path / "build" / "resnet50")
