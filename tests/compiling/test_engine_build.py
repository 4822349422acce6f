"""Real builds with TensorRT-RTX, which needs no GPU for them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from compile_nets import MakeNet

from deployfold.compiling.records import EngineRequest
from deployfold.compiling.tensorrt.compile import compile_engine
from deployfold.config.engine import EngineOptions
from deployfold.config.optimization_profiles import InputShapes
from deployfold.config.precision import Precision
from deployfold.errors import CompileError
from deployfold.events import Event, StageProgress

RequestFor = Callable[..., EngineRequest]


def shapes(low: int, mid: int, high: int) -> tuple[InputShapes, ...]:
    return (InputShapes("x", (low, 3, 16, 16), (mid, 3, 16, 16), (high, 3, 16, 16)),)


def test_an_engine_its_sidecar_and_its_log_are_written(
    conv_net: MakeNet, request_for: RequestFor, tmp_path: Path
) -> None:
    import tensorrt_rtx

    onnx, path = conv_net(), tmp_path / "out" / "net.engine"
    events: list[Event] = []
    made = compile_engine(onnx, path, request_for(), emit=events.append)

    assert made.path == path
    assert made.bytes == path.stat().st_size > 1000
    assert made.library_version == tensorrt_rtx.__version__
    if sys.platform == "linux":
        assert made.peak_bytes > 50e6, "of the worker, which imports TensorRT"
    counts = made.layer_counts
    assert (counts.of(Precision.FP32), counts.of(Precision.FP16), counts.compute) == (2, 0, 2)
    assert {file.name for file in path.parent.iterdir()} == {
        "net.engine",
        "net.engine.json",
        "net.engine.log",
    }
    assert b"Engine generation completed" in made.log.read_bytes()
    assert not path.read_bytes().startswith(b"{")  # no header of ours

    sidecar = json.loads(made.sidecar.read_text())
    assert sidecar["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() == made.sha256
    assert sidecar["onnx_sha256"] == hashlib.sha256(onnx.read_bytes()).hexdigest()
    assert sidecar["compute_capabilities"] == ["8.9"]
    assert sidecar["library"] == "tensorrt_rtx"
    assert sidecar["precision"] == "fp32"
    assert sidecar["loaded_on_gpu"] is False

    progress = [event for event in events if isinstance(event, StageProgress)]
    assert len(progress) == len(events)
    assert {event.stage for event in progress} == {"compile"}
    fractions = [event.fraction for event in progress if event.fraction is not None]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert "Optimizing graph" in {event.detail for event in progress}


def test_a_half_precision_onnx_is_a_half_precision_engine(
    conv_net: MakeNet, request_for: RequestFor, tmp_path: Path
) -> None:
    onnx = conv_net(half=True)
    made = compile_engine(onnx, tmp_path / "net.engine", request_for(Precision.FP16))
    assert (made.layer_counts.of(Precision.FP32), made.layer_counts.of(Precision.FP16)) == (0, 2)


@pytest.mark.parametrize(("half", "asked"), [(False, "fp16"), (True, "fp32"), (False, "int8")])
def test_a_precision_that_the_onnx_does_not_carry_is_an_error(
    conv_net: MakeNet, request_for: RequestFor, tmp_path: Path, half: bool, asked: str
) -> None:
    with pytest.raises(CompileError) as caught:
        compile_engine(conv_net(half=half), tmp_path / "net.engine", request_for(Precision(asked)))
    assert f"is {asked}, the requested precision" in caught.value.message
    assert f"None of the 2 compute layers that TensorRT parsed from net.onnx is {asked}" in (
        caught.value.message
    )
    assert not (tmp_path / "net.engine").exists()


def test_q_dq_nodes_are_an_int8_engine(
    int8_net: Path, request_for: RequestFor, tmp_path: Path
) -> None:
    made = compile_engine(int8_net, tmp_path / "net.engine", request_for(Precision.INT8))
    counts = made.layer_counts
    assert (
        counts.of(Precision.INT8),
        counts.of(Precision.FP32),
        counts.quantize,
        counts.dequantize,
    ) == (1, 0, 1, 2)


@pytest.mark.parametrize("sms", [((7, 5),), ((12, 1),), ((8, 0), (8, 6), (8, 9), (12, 0))])
def test_every_sm_that_the_plan_can_ask_for_builds(
    conv_net: MakeNet, request_for: RequestFor, tmp_path: Path, sms: tuple[tuple[int, int], ...]
) -> None:
    onnx = conv_net(half=True)
    made = compile_engine(onnx, tmp_path / "net.engine", request_for(Precision.FP16, *sms))
    assert made.compute_capabilities == sms
    assert made.bytes > 1000


def test_an_sm_that_the_library_lacks_is_an_error_and_not_another_engine(
    conv_net: MakeNet, request_for: RequestFor, tmp_path: Path
) -> None:
    with pytest.raises(CompileError, match=r"TensorRT-RTX .* does not support SM87"):
        compile_engine(conv_net(), tmp_path / "net.engine", request_for(Precision.FP32, (8, 7)))


def test_a_dynamic_batch_takes_several_profiles(
    conv_net: MakeNet, request_for: RequestFor, tmp_path: Path
) -> None:
    profiles = (shapes(1, 1, 1), shapes(1, 8, 32))
    request = dataclasses.replace(request_for(), profiles=profiles)
    made = compile_engine(conv_net(batch="n"), tmp_path / "net.engine", request)
    assert made.profiles == profiles
    written = json.loads(made.sidecar.read_text())["profiles"]
    assert [profile[0]["max"] for profile in written] == [[1, 3, 16, 16], [32, 3, 16, 16]]


def test_a_dynamic_onnx_without_a_profile_says_which_input(
    conv_net: MakeNet, request_for: RequestFor, tmp_path: Path
) -> None:
    with pytest.raises(CompileError, match=r"'x' has a dynamic shape \(-1, 3, 16, 16\)"):
        compile_engine(conv_net(batch="n"), tmp_path / "net.engine", request_for())


def test_a_profile_that_the_fixed_onnx_cannot_serve_is_an_error(
    conv_net: MakeNet, request_for: RequestFor, tmp_path: Path
) -> None:
    request = dataclasses.replace(request_for(), profiles=(shapes(1, 8, 32),))
    with pytest.raises(CompileError, match=r"the requested shape is \(8, 3, 16, 16\)"):
        compile_engine(conv_net(), tmp_path / "net.engine", request)


def test_a_profile_for_other_inputs_is_an_error(
    conv_net: MakeNet, request_for: RequestFor, tmp_path: Path
) -> None:
    stranger = (InputShapes("images", (1, 3, 16, 16), (1, 3, 16, 16), (1, 3, 16, 16)),)
    request = dataclasses.replace(request_for(), profiles=(stranger,))
    with pytest.raises(CompileError, match=r"\['images'\], but the network has \['x'\]"):
        compile_engine(conv_net(), tmp_path / "net.engine", request)


def test_weights_in_a_file_of_their_own_are_found(
    conv_net: MakeNet, request_for: RequestFor, tmp_path: Path
) -> None:
    onnx = conv_net(external=True)
    assert (tmp_path / "net.onnx.data").exists()
    assert (
        compile_engine(onnx, tmp_path / "net.engine", request_for()).layer_counts.of(Precision.FP32)
        == 2
    )


def test_builder_options_are_taken(
    conv_net: MakeNet, request_for: RequestFor, tmp_path: Path
) -> None:
    request = dataclasses.replace(
        request_for(), workspace_mib=64, options=EngineOptions(optimization_level=0)
    )
    made = compile_engine(conv_net(), tmp_path / "net.engine", request)
    sidecar = json.loads(made.sidecar.read_text())
    assert (sidecar["workspace_mib"], sidecar["options"]["optimization_level"]) == (64, 0)


def test_relative_paths_are_the_callers(
    conv_net: MakeNet,
    request_for: RequestFor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conv_net()
    monkeypatch.chdir(tmp_path)
    compile_engine(Path("net.onnx"), Path("net.engine"), request_for())
    assert (tmp_path / "net.engine").exists()


def test_a_torch_export_builds(request_for: RequestFor, tmp_path: Path) -> None:
    import torch

    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.Hardswish(), torch.nn.Conv2d(8, 4, 3, groups=2)
    ).eval()
    onnx = tmp_path / "net.onnx"
    torch.onnx.export(net, (torch.randn(1, 3, 16, 16),), str(onnx), dynamo=False)
    assert (
        compile_engine(onnx, tmp_path / "net.engine", request_for()).layer_counts.of(Precision.FP32)
        == 2
    )
