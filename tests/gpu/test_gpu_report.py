"""The report of a GPU machine, rehearsed on a CPU: parts are apart, and the table is read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import report as gpu_report


def test_a_part_that_fails_costs_itself(tmp_path: Path) -> None:
    run = gpu_report.Run(tmp_path)

    def fails() -> None:
        raise ValueError("the driver is away")

    run.part("broken", fails)
    run.part("whole", lambda: {"a": 1})
    parts = json.loads((tmp_path / "gpu.json").read_text())
    assert [(part["found"], part["failure"]) for part in parts] == [
        (None, "ValueError: the driver is away"),
        ({"a": 1}, None),
    ]
    assert "| broken | 0.0 | ValueError: the driver is away |" in (tmp_path / "gpu.md").read_text()


def test_a_failed_process_is_reported_by_its_last_line(tmp_path: Path) -> None:
    run = gpu_report.Run(tmp_path)
    with pytest.raises(ValueError, match=r"exit code 3: .*out of memory"):
        run.process(
            "x", ["-c", "import sys; print('out of memory', file=sys.stderr); sys.exit(3)"], 9
        )


def test_a_part_past_its_time_is_interrupted_and_may_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_report, "REHEARSAL", 1.0)
    code = (
        # A job in the background ignores Ctrl-C.
        "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    open('finished', 'w').close()"
    )
    with pytest.raises(ValueError, match="not done after 5 s"):
        gpu_report.Run(tmp_path).process("x", ["-S", "-c", code], 5.0)
    assert (tmp_path / "finished").exists()


def test_the_table_has_the_rows_of_the_reports() -> None:
    rows = [
        {
            "name": "pytorch",
            "title": "PyTorch",
            "latency": {"median_ms": 2.5, "speedup": None, "stable": True},
        },
        {
            "name": "tensorrt-fp16",
            "title": "TensorRT fp16",
            "latency": {"median_ms": 0.5, "speedup": {"value": 5, "low": 4.9, "high": 5.1}},
            "accuracy": {"sqnr_db": 61.234},
        },
        {
            "name": "onnxruntime-fp16",
            "title": "ONNX Runtime",
            "latency": None,
            "accuracy": {"sqnr_db": 60.0},
            "not_measured": "no | kernels",
        },
    ]
    parts = [
        gpu_report.Part("machine", {"gpus": [{"name": "NVIDIA H100"}]}),
        gpu_report.Part("build resnet50", {"rows": rows}),
        gpu_report.Part("trtexec resnet50", {"median_ms": 0.49}),
    ]
    text = gpu_report.markdown(parts)
    assert text.startswith("# NVIDIA H100\n")
    assert "| resnet50 | TensorRT fp16 | 0.5 | 5.00× [4.90, 5.10] | 61.23 |  |" in text
    assert "| resnet50 | ONNX Runtime | – | – | 60 | no / kernels |" in text
    assert "| resnet50 | 60 | 61.23 | tensorrt-fp16 |" in text
    assert "| resnet50 | trtexec fp16 | 0.49 |" in text


OPTIONAL = (
    "torchvision", "timm", "backports", "cyclonedx", "jinja2", "distributed", "pynvml", "yaml",
    "hypothesis", "jsonschema", "tensorrt", "tensorrt_rtx", "torch_tensorrt", "tritonclient",
)  # fmt: skip


@pytest.mark.slow
def test_every_skip_has_its_reason_without_the_optional_packages(tmp_path: Path) -> None:
    """The machine is a GPU machine with PyTorch and few other packages."""
    lines = ["import sys", f"sys.modules.update(dict.fromkeys({OPTIONAL!r}))"]
    (tmp_path / "bare.py").write_text("\n".join(lines))
    tests = [str(path) for path in Path(__file__).parent.glob("test_*_on_gpu.py")]
    words = ["-m", "pytest", "-q", "-rs", "-p", "bare", "-p", "no:cacheprovider"]
    words += ["-p", "no:hypothesispytest", *tests]  # its plugin is not there without it
    done = subprocess.run(
        [sys.executable, *words], cwd=Path(__file__).parents[2], capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    reasons = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert len(reasons) > 30
    assert all(line.rpartition(": ")[2] for line in reasons)


@pytest.mark.slow
def test_all_of_it_is_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    words = [str(tmp_path), "--net", "resnet18", "--input", "1x3x64x64", "--seconds", "1"]
    assert gpu_report.main([*words, "--no-tests"]) == 0
    parts = {part["name"]: part for part in json.loads((tmp_path / "gpu.json").read_text())}
    assert {"machine", "doctor", "build resnet18", "bench resnet18"} <= set(parts)
    titles = [row["title"] for row in parts["build resnet18"]["found"]["rows"]]
    assert titles[0] == "PyTorch (original)"
    assert "| resnet18 | PyTorch (original) |" in (tmp_path / "gpu.md").read_text()
