"""Finishing a build on the device: the parts that need no GPU."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from finish_kits import make_kit
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_examples import examples

from deployfold.compiling.records import NoEngine
from deployfold.config.engine import EngineOptions
from deployfold.config.precision import Precision
from deployfold.errors import CompileError, DeployfoldError, UsageError
from deployfold.finish import device
from deployfold.finish.device import finish
from deployfold.finish.jobs import plan_jobs
from deployfold.finish.kit import FINISH_JSON, copy_note, read_kit
from deployfold.finish.reference import REFERENCE_NPZ
from deployfold.measuring.environment import cpu_name
from deployfold.reporting.report import ThresholdResult, load_report, write_report
from deployfold.reporting.row import Latency
from deployfold.targets.catalogue import identify, load_targets
from deployfold.targets.machine import Gpu, Machine, detect

BLOCKER = """\
import sys


class _Blocked:
    names = {names!r}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(f"{{name}} is not on this device")


sys.meta_path.insert(0, _Blocked())
"""
ABSENT = (
    "torch", "torchvision", "timm", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "safetensors",
    "PIL",
)  # fmt: skip

needs_no_gpu = pytest.mark.skipif(detect().gpu is not None, reason="there is a GPU here")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_kit(tmp_path_factory.mktemp("kits") / "net")


@pytest.fixture
def kit(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "device" / "net"))


def test_a_target_is_built_without_its_gpu_and_not_called_measured(kit: Path) -> None:
    report = finish(kit, targets=["l4"])
    rows = {row.name: row for row in report.rows}
    assert list(rows) == ["pytorch", "tensorrt-fp32-jetson-orin-nano", "tensorrt-fp32-l4"]
    row = rows["tensorrt-fp32-l4"]
    assert row.artifact == "net.sm_89.engine"
    assert row.bytes == (kit / "net.sm_89.engine").stat().st_size
    assert (row.latency, row.accuracy) == (None, None)
    assert "built for sm_89" in str(row.not_measured)
    assert row.parameters == 272, "what only the build knew is kept"
    assert "2 of 2 compute layers in fp32" in row.notes
    assert rows["tensorrt-fp32-jetson-orin-nano"].not_measured == "No engine for it."
    assert load_report(kit / "report.json") == report
    assert "tensorrt-fp32-l4" in report.notes[-1]
    assert r"sm\_89" in (kit / "report.md").read_text()
    sidecar = json.loads((kit / "net.sm_89.engine.json").read_text())
    assert sidecar["profiles"][0][0]["max"] == [4, 3, 16, 16], "the build's own profile"


def test_the_completed_report_is_of_this_machine(kit: Path) -> None:
    latency = Latency(
        median_ms=5.0, p90_ms=5.0, p95_ms=5.0, p99_ms=5.0, throughput=200.0, speedup=None,
        rounds=15, samples=300, stable=True,
    )  # fmt: skip
    before = load_report(kit / "report.json")
    rows = (before.rows[0].model_copy(update={"latency": latency}), *before.rows[1:])
    notes = ("One of the build.", copy_note(["jetson-orin-nano", "l4"]))
    write_report(before.model_copy(update={"rows": rows, "notes": notes}), kit / "report.json")
    report = finish(kit, targets=["l4"])
    assert report.environment.cpu == cpu_name()
    assert report.rows[0].notes == ("measured where it was built: a CPU · 1 thread",)
    assert report.notes[:-1] == ("One of the build.", copy_note(["jetson-orin-nano"]))
    again = finish(kit, targets=["l4"])
    assert again.rows[0].notes == report.rows[0].notes, "the second time on the same device"


def test_the_options_of_the_build_are_those_of_the_engine(tmp_path: Path) -> None:
    kit = make_kit(tmp_path / "net", options=EngineOptions(weight_streaming=True))
    finish(kit, targets=["l4"])
    sidecar = json.loads((kit / "net.sm_89.engine.json").read_text())
    assert sidecar["options"]["weight_streaming"] is True


def test_a_gpu_that_the_kit_does_not_name_gets_a_row_of_its_own(kit: Path) -> None:
    report = finish(kit, targets=["sm_86"])
    assert [row.name for row in report.rows][-1] == "tensorrt-fp32-sm_86"
    assert report.rows[-1].artifact == "net.sm_86.engine"
    sidecar = json.loads((kit / "net.sm_86.engine.json").read_text())
    assert sidecar["profiles"], "as for the engines that it does name"


def test_a_limit_of_the_build_is_held_against_the_new_rows(kit: Path) -> None:
    metric = ThresholdResult(
        name="min-metric top1", limit=0.7, value=0.6, row="onnxruntime-fp16", passed=False
    )
    before = load_report(kit / "report.json")
    write_report(
        before.model_copy(update={"thresholds": (*before.thresholds, metric)}), kit / "report.json"
    )
    report = finish(kit, targets=["l4"])
    limit, kept = report.thresholds
    assert kept == metric, "no device measures a task metric again"
    assert (limit.row, limit.value, limit.passed) == ("tensorrt-fp32-jetson-orin-nano", None, False)


def test_weights_beside_the_onnx_belong_to_the_kit(tmp_path: Path) -> None:
    kit = make_kit(tmp_path / "net", external=True)
    assert finish(kit, targets=["l4"]).rows[2].artifact
    (kit / "net.onnx.data").write_bytes(b"\0" * 10)
    with pytest.raises(UsageError, match=r"net\.onnx\.data has changed since the build"):
        finish(kit, targets=["l4"])


@needs_no_gpu
def test_without_a_gpu_and_a_target_there_is_nothing_to_do(kit: Path) -> None:
    with pytest.raises(UsageError, match="no NVIDIA GPU") as caught:
        finish(kit)
    assert "--target" in str(caught.value.hint)


def test_a_gpu_that_nothing_here_builds_for_is_an_error_with_the_reason(kit: Path) -> None:
    before = (kit / "report.json").read_bytes()
    with pytest.raises(CompileError, match="TensorRT-RTX does not know it"):
        finish(kit, targets=["h100"])
    assert (kit / "report.json").read_bytes() == before


def test_one_that_fails_does_not_keep_the_others_from_their_engines(kit: Path) -> None:
    report = finish(kit, targets=["jetson-orin-nano", "l4"])
    rows = {row.name: row for row in report.rows}
    assert "sm_87" in str(rows["tensorrt-fp32-jetson-orin-nano"].not_measured)
    assert rows["tensorrt-fp32-l4"].artifact == "net.sm_89.engine"


def test_a_report_calls_no_engine_complete_that_is_being_replaced(
    kit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed run cannot correct its report, so the report is correct before the work starts."""
    before = finish(kit, targets=["l4"])

    def stopped(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(device, "compile_engine", stopped)
        with pytest.raises(KeyboardInterrupt):
            finish(kit, targets=["l4"])
    expected = load_report(kit / "report.json").status
    assert (expected.state, expected.stage) == ("interrupted", "compile")
    again = finish(kit, targets=["l4"])
    assert again.status == before.status

    def failing(*arguments: Any, **options: Any) -> None:
        raise CompileError("no")

    with monkeypatch.context() as patch:
        patch.setattr(device, "compile_engine", failing)
        with pytest.raises(CompileError):
            finish(kit, targets=["l4"])
    assert load_report(kit / "report.json") == again, "the engine that was there is whole"


def test_a_precision_that_the_build_has_not_is_an_error(kit: Path) -> None:
    with pytest.raises(UsageError, match="no int8 ONNX") as caught:
        finish(kit, targets=["l4"], precisions=[Precision.INT8])
    assert "fp32" in str(caught.value.hint)


def machine(name: str, capability: tuple[int, int], **libraries: str) -> Machine:
    return Machine(gpu=Gpu(name, capability), profile=identify(name, load_targets()), **libraries)


@pytest.mark.parametrize(
    ("here", "row", "library"),
    [
        (machine("Orin (nvgpu)", (8, 7), tensorrt="10.3.0"), "jetson-orin-nano", "tensorrt"),
        (machine("NVIDIA L4", (8, 9), tensorrt="11.4.0"), "l4", "tensorrt"),
        (machine("NVIDIA L4", (8, 9), tensorrt_rtx="1.7.1"), "l4", "tensorrt_rtx"),
        (machine("NVIDIA A10", (8, 6), tensorrt="11.4.0"), "tensorrt-sm_86", "tensorrt"),
    ],
)
def test_the_device_takes_the_row_that_was_left_for_it(
    kit: Path, here: Machine, row: str, library: str
) -> None:
    (job,) = plan_jobs(read_kit(kit), ("auto",), (), here)
    assert not isinstance(job.entry, NoEngine)
    assert job.entry.library == library
    assert (job.entry.current_gpu, job.entry.verify) == (True, True)
    assert job.wanted.row == f"tensorrt-fp32-{row}"
    assert job.wanted.profiles


@pytest.mark.parametrize("target", ["portable", "l4,rtx5090"])
def test_a_request_for_several_gpus_is_built_for_the_gpu_here(tmp_path: Path, target: str) -> None:
    kit = read_kit(make_kit(tmp_path / "net", targets=(target,)))
    (job,) = plan_jobs(kit, ("auto",), (), machine("NVIDIA L4", (8, 9), tensorrt="11.4.0"))
    assert not isinstance(job.entry, NoEngine)
    assert job.wanted.row == "tensorrt-fp32-tensorrt-sm_89"
    assert job.wanted.profiles, "as for the engine that was wanted"


@pytest.mark.parametrize("name", [FINISH_JSON, REFERENCE_NPZ, "net.onnx", "report.json"])
def test_a_file_that_is_missing_is_named(kit: Path, name: str) -> None:
    (kit / name).unlink()
    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        finish(kit, targets=["l4"])


def test_a_file_that_has_changed_is_named(kit: Path) -> None:
    for name in (REFERENCE_NPZ, "net.onnx"):
        path = kit / name
        good = path.read_bytes()
        path.write_bytes(good + b"\0")
        with pytest.raises(UsageError, match=f"{name} has changed since the build"):
            finish(kit, targets=["l4"])
        path.write_bytes(good)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(max_examples=examples(60))
@given(data=st.data())
def test_a_damaged_kit_is_read_or_refused_in_a_sentence(
    original: Path, data: st.DataObject
) -> None:
    whole: dict[str, Any] = json.loads((original / FINISH_JSON).read_text())
    key = data.draw(st.sampled_from(sorted(whole)))
    whole[key] = data.draw(JSON)
    spoiled = original.parent / "spoiled"
    if not spoiled.exists():
        shutil.copytree(original, spoiled)
    (spoiled / FINISH_JSON).write_text(json.dumps(whole))
    with contextlib.suppress(DeployfoldError):
        read_kit(spoiled)


def test_a_kit_cannot_reach_out_of_its_directory(kit: Path) -> None:
    data = json.loads((kit / FINISH_JSON).read_text())
    data["onnx"]["fp32"][0]["file"] = "../../net/net.onnx"
    data["report"] = "/etc/report.json"
    (kit / FINISH_JSON).write_text(json.dumps(data))
    found = read_kit(kit)
    assert {path.parent for path in (*found.onnx.values(), found.report)} == {kit}


def test_finish_runs_without_torch_and_onnx(kit: Path, tmp_path: Path) -> None:
    """The worker, too: both start with a module that refuses to import what a Jetson lacks."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(BLOCKER.format(names=set(ABSENT)))
    environment = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "120"}
    words = ["-m", "deployfold", "finish", str(kit), "--target", "sm_89", "--json"]
    check = subprocess.run(
        [sys.executable, "-c", "import torch"], env=environment, capture_output=True, check=False
    )
    assert b"not on this device" in check.stderr
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    # An engine of TensorRT-RTX for sm_89 is the one that was wanted for the L4.
    assert rows["tensorrt-fp32-l4"]["artifact"] == "net.sm_89.engine"
    assert (kit / "net.sm_89.engine.json").exists()


@needs_no_gpu
def test_a_missing_driver_is_reported() -> None:
    from deployfold.errors import MeasureError
    from deployfold.runtimes.cuda import Cuda

    with pytest.raises(MeasureError, match=r"no NVIDIA driver|CUDA failed in cuInit"):
        Cuda()
