"""``deployfold finish`` as a command; what it does is tested in tests/finish."""

from __future__ import annotations

import json

import pytest
from cli_runs import check_whole, fails, run

from deployfold.targets.machine import detect


def test_a_directory_without_a_kit_is_an_error(tmp_path):
    (tmp_path / "out").mkdir()
    fails(run("finish", "out", cwd=tmp_path), 2, "finish.json", "Copy the whole directory")
    fails(run("finish", "gone", cwd=tmp_path), 2, "finish.json")


def test_an_unknown_precision_is_an_error(tmp_path):
    fails(run("finish", ".", "--precision", "fp12", cwd=tmp_path), 2, "'fp12' is not a precision")


@pytest.fixture
def kit(folder, built, tmp_path):
    """The kit of a real build's directory, as the build will write it in the end."""
    import shutil

    import numpy as np
    import onnxruntime

    from deployfold.compiling.records import InputShapes
    from deployfold.config.precision import Precision
    from deployfold.finish.kit import Wanted, write_finish_kit
    from deployfold.finish.reference import REFERENCE_NPZ, write_reference

    assert built.returncode == 0, built.stderr
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out)
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(out / "net.onnx"))
    (name,) = (value.name for value in session.get_inputs())
    profile = (InputShapes(name, x.shape, x.shape, x.shape),)
    wanted = [
        Wanted(
            row=f"tensorrt-fp16-{target}",
            title=f"TensorRT fp16, {target}",
            target=target,
            precision=Precision.FP16,
            profiles=(profile,),
        )
        for target in ("h100", "jetson-orin-nano")
    ]
    write_reference(out / REFERENCE_NPZ, [x], session.run(None, {name: x}))
    write_finish_kit(
        out,
        model_name="net",
        onnx_by_precision={Precision.FP16: out / "net.fp16.onnx"},
        requests=wanted,
        inputs=[name],
        report_path=out / "report.json",
    )
    return tmp_path


def test_a_build_is_finished_for_a_gpu_that_is_not_here(kit):
    pytest.importorskip("tensorrt_rtx")
    done = run("finish", "out", "--target", "rtx5090", "--json", cwd=kit)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    row = rows["tensorrt-fp16-sm_120"]
    assert row["artifact"] == "net.fp16.sm_120.engine"
    assert "run it there" in row["not_measured"]
    assert "2 of 3 compute layers in fp16" in row["notes"] or (
        "3 of 3 compute layers in fp16" in row["notes"]
    )
    assert rows["tensorrt-fp16-h100"]["latency"] is None
    assert {"net.fp16.sm_120.engine", "net.fp16.sm_120.engine.json"} <= check_whole(kit / "out")
    again = run("bench", "out", "--only", "tensorrt-fp16-sm_120", "--max-seconds", "0.2", cwd=kit)
    assert "sm_120" in again.stdout


@pytest.mark.skipif(detect().gpu is not None, reason="there is a GPU here")
def test_without_a_gpu_the_way_out_is_named(kit):
    fails(run("finish", "out", cwd=kit), 2, "no NVIDIA GPU", "--target sm_89")
    fails(run("finish", "out", "--target", "h100", cwd=kit), 6, "sm_90", "does not know it")
