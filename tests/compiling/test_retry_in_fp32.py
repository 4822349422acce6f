"""Grouped convolutions in fp32 where a version of TensorRT has no fp16 kernel for them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from lowering_calls import lower_fp16
from torch import nn

from deployfold.compiling.records import EngineRequest
from deployfold.compiling.tensorrt.builder import BuiltEngine, NotBuilt, build
from deployfold.compiling.tensorrt.known_issues import known_issues
from deployfold.compiling.tensorrt.retry_in_fp32 import build_or_retry, grouped_convolutions_in_fp32
from deployfold.config.precision import Precision
from deployfold.errors import CompileError

REQUEST = EngineRequest("tensorrt_rtx", Precision.FP16, ("sm_89",), ((8, 9),))
GROUPED = known_issues("tensorrt", "11.2.1.2", precision=Precision.FP16, layers=("CONVOLUTION",))


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An fp16 ONNX of a convolution, a depthwise one with a bias, and a grouped one without."""
    folder = tmp_path_factory.mktemp("grouped")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
        nn.Conv2d(8, 8, 1, groups=2, bias=False),
    ).eval()  # fmt: skip
    x = torch.randn(1, 3, 12, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (x,), str(folder / "net.onnx"), dynamo=False, opset_version=20, input_names=["x"]
        )
    lower_fp16(folder / "net.onnx", folder / "net.fp16.onnx", inputs=[{"x": x.numpy()}])
    return folder / "net.fp16.onnx"


def first_fails(times: int) -> Any:
    """The real builder, that fails the first ``times`` as TensorRT 11.2.1 is reported to."""
    calls: list[Path] = []

    def builder(trt: Any, request: Any, source: Path, output: Path, report: Any) -> BuiltEngine:
        calls.append(source)
        if len(calls) <= times:
            raise NotBuilt("TensorRT could not build the engine.", hint="Known.", issues=GROUPED)
        return build(trt, request, source, output, report)

    return builder


def test_the_issue_is_one_that_is_tried_again() -> None:
    assert [one.retry_in_fp32 for one in GROUPED] == [True]


def test_grouped_convolutions_go_to_fp32_and_compute_the_same(half: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.onnx"
    assert grouped_convolutions_in_fp32(half, again) == 2
    onnx.checker.check_model(str(again), full_check=True)
    x = np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)
    first, second = (
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for path in (half, again)
    )
    np.testing.assert_allclose(first, second, atol=2e-2)
    assert grouped_convolutions_in_fp32(again, tmp_path / "third.onnx") == 0
    assert not (tmp_path / "third.onnx").exists()


def test_a_build_that_fails_for_them_is_tried_again_without(half: Path, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    phases: list[str] = []
    built = build_or_retry(
        first_fails(1), trt, REQUEST, half, tmp_path / "e", lambda phase, _: phases.append(phase)
    )
    assert (built.layer_counts.of(Precision.FP16), built.layer_counts.of(Precision.FP32)) == (1, 2)
    assert "Trying again with grouped convolutions in fp32" in phases
    assert built.notes[-1].startswith("2 grouped convolutions are built in fp32, because TensorRT")
    assert "/issues/4838" in built.notes[-1]
    assert not list(half.parent.glob(".*")), "the second ONNX is gone"
    plain = build_or_retry(first_fails(0), trt, REQUEST, half, tmp_path / "e", lambda *_: None)
    assert (plain.layer_counts.of(Precision.FP16), plain.notes) == (3, ())


def test_a_second_failure_reports_the_first_reason(half: Path, tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        build_or_retry(first_fails(2), None, REQUEST, half, tmp_path / "e", lambda *_: None)
    assert caught.value.hint == "Known."
    assert not list(half.parent.glob(".*"))


def test_another_failure_is_not_tried_again(half: Path, tmp_path: Path) -> None:
    def builder(*_: Any) -> BuiltEngine:
        raise NotBuilt("No.")

    with pytest.raises(NotBuilt, match=r"No\."):
        build_or_retry(builder, None, REQUEST, half, tmp_path / "e", lambda *_: None)
