"""Every kind of network, in every precision, for every target: it builds, or the reason is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from matrix_nets import NETS, Net, make_net

from deployfold.compile import EngineRequest, Machine, NoEngine, compile_engine, plan_engines
from deployfold.compile.sidecar import built_for, read_sidecar
from deployfold.errors import CompileError
from deployfold.spec import Precision

TARGETS = {
    "sm_75": "sm_75",
    "sm_80": "sm_80",
    "sm_86": "sm_86",
    "sm_89": "sm_89",
    "sm_120": "sm_120",
    "auto": "sm_80, sm_86, sm_89, sm_120",
}
REFUSED = {"sm_72": "TensorRT 8.5", "sm_87": "not in this machine", "sm_90": "not in this machine"}
NO_FP32_ON_TURING = {
    "residual": "FP32 GEMM",
    "two-inputs": "FP32 GEMM",
    "transformer": "FP32 GEMM",
    "conv-3d": "FP32 3D convolution",
}
"""What TensorRT-RTX 1.7 has no kernels for on sm_75."""
PRECISIONS = (Precision.FP32, Precision.FP16)
HERE = Machine(tensorrt_rtx="1.7.1")


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Net]:
    directory = tmp_path_factory.mktemp("matrix")
    return {name: make_net(name, directory) for name in NETS}


def request_for(target: str, precision: Precision, net: Net) -> EngineRequest:
    (entry,) = plan_engines([target], precision, HERE)
    assert isinstance(entry, EngineRequest)
    return dataclasses.replace(entry, profiles=net.profiles)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NETS)
def test_a_network_builds_for_every_target(
    nets: dict[str, Net], tmp_path: Path, name: str, precision: Precision
) -> None:
    """In this process: starting a worker for each of the 72 would take a minute."""
    from deployfold.compile.tensorrt import build, import_library

    trt, net = import_library("tensorrt_rtx"), nets[name]
    for target in TARGETS:
        output = tmp_path / f"{target}.engine"
        request = request_for(target, precision, net)
        if (target, precision) == ("sm_75", Precision.FP32) and name in NO_FP32_ON_TURING:
            with pytest.raises(CompileError) as caught:
                build(trt, request, net.onnx[precision], output, lambda *_: None)
            assert "for sm_75: " in caught.value.message
            assert f"{NO_FP32_ON_TURING[name]} is not supported." in caught.value.message
            assert "fp16" in str(caught.value.hint)
            continue
        built = build(trt, request, net.onnx[precision], output, lambda *_: None)
        assert output.stat().st_size > 1000, target
        counts = built.layer_counts
        assert counts.compute == getattr(counts, precision.value) > 0, target
        assert [one.mode for one in built.tensors].count("input") == len(net.profiles[0])


@pytest.mark.parametrize("target", REFUSED)
@pytest.mark.parametrize("precision", Precision)
def test_a_target_without_a_compiler_is_refused_with_the_reason(
    target: str, precision: Precision
) -> None:
    name = "jetson-agx-xavier" if target == "sm_72" else target
    (entry,) = plan_engines([name], precision, HERE)
    assert isinstance(entry, NoEngine)
    assert target in entry.reason
    assert REFUSED[target] in entry.reason


def test_a_worker_builds_the_same_and_its_sidecar_says_for_what(
    nets: dict[str, Net], tmp_path: Path
) -> None:
    net = nets["fully-convolutional"]
    request = request_for("auto", Precision.FP16, net)
    made = compile_engine(net.onnx[Precision.FP16], tmp_path / "net.engine", request)
    assert built_for(read_sidecar(made.path)) == TARGETS["auto"]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["torchvision:resnet50", "timm:efficientnet_lite0"])
def test_a_real_network_builds_for_every_target(source: str, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")
    import warnings

    import torch

    from deployfold.compile import InputShapes
    from deployfold.load import load_model
    from deployfold.lower import lower_fp16

    module, x = load_model(source).module, torch.randn(1, 3, 224, 224)
    onnx, half = tmp_path / "net.onnx", tmp_path / "net.fp16.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), str(onnx), dynamo=False, input_names=["x"])
    lower_fp16(onnx, half, inputs=[{"x": x.numpy()}])
    profile = (InputShapes("x", tuple(x.shape), tuple(x.shape), tuple(x.shape)),)
    net = Net({Precision.FP32: onnx, Precision.FP16: half}, (profile,))
    for precision in PRECISIONS:
        for target in TARGETS:
            if (target, precision) == ("sm_75", Precision.FP32):
                continue  # its classifier is a matrix product
            request = request_for(target, precision, net)
            path = tmp_path / f"{target}.{precision.value}.engine"
            made = compile_engine(net.onnx[precision], path, request)
            counts = made.layer_counts
            assert getattr(counts, precision.value) == counts.compute
