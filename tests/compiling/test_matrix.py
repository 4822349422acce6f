"""Every kind of network, in every precision, for every target, builds or gives a reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import onnx
import pytest
from matrix_nets import NETS, Net, make_net, precision_of

from deployfold.compiling.planning import plan_engines
from deployfold.compiling.records import EngineRequest, NoEngine
from deployfold.compiling.sidecar import read_sidecar
from deployfold.compiling.tensorrt.compile import compile_engine
from deployfold.config.precision import Precision
from deployfold.errors import CompileError
from deployfold.targets.machine import Machine

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
COLUMNS = ("fp32", "fp16", "int8", "int8+fp16", "bf16", "fp8", "int4")
QUICK = {
    *((name, column) for name in NETS for column in ("fp32", "fp16")),
    ("two-inputs", "int8"), ("conv-1d", "int8+fp16"), ("residual", "bf16"),
    ("two-inputs", "fp8"), ("transformer", "int4"),
}  # fmt: skip
NO_INT4 = ("two-inputs", "fully-convolutional", "conv-1d", "conv-3d")
"""Networks without a matrix product of 32 or more inputs."""
MATRIX = [
    pytest.param(name, column, marks=[] if (name, column) in QUICK else pytest.mark.slow)
    for name in NETS
    for column in COLUMNS
    if column != "int4" or name not in NO_INT4
]
HERE = Machine(tensorrt_rtx="1.7.1")


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Net]:
    directory = tmp_path_factory.mktemp("matrix")
    return {name: make_net(name, directory) for name in NETS}


def planned(target: str, column: str, net: Net) -> EngineRequest | NoEngine:
    (entry,) = plan_engines([target], precision_of(column), HERE)
    if isinstance(entry, NoEngine):
        return entry
    return dataclasses.replace(entry, profiles=net.profiles)


def layers_in(onnx_file: Path, precision: Precision) -> int | None:
    """The number of layers of a quantised ONNX with a quantised weight; ``None`` for all."""
    if precision not in (Precision.INT8, Precision.FP8, Precision.INT4):
        return None
    graph = onnx.load(onnx_file).graph
    weights = {tensor.name for tensor in graph.initializer}
    return sum(
        node.op_type == "DequantizeLinear" and node.input[0] in weights for node in graph.node
    )


@pytest.mark.parametrize(("name", "column"), MATRIX)
def test_a_network_builds_for_every_target(
    nets: dict[str, Net], tmp_path: Path, name: str, column: str
) -> None:
    """The test builds in this process: starting a worker for each of the 228 cases would take
    minutes.
    """
    from deployfold.compiling.tensorrt.builder import build
    from deployfold.targets.libraries import import_library

    trt, net, precision = (
        import_library("tensorrt_rtx", CompileError),
        nets[name],
        precision_of(column),
    )
    source = net.onnx(column)
    for target in TARGETS:
        output = tmp_path / f"{target}.engine"
        request = planned(target, column, net)
        if isinstance(request, NoEngine):
            check_refusal(trt, request, net, column)
            continue
        if target == "sm_75" and column == "fp32" and name in NO_FP32_ON_TURING:
            with pytest.raises(CompileError) as caught:
                build(trt, request, source, output, lambda *_: None)
            assert "for sm_75: " in caught.value.message
            assert f"{NO_FP32_ON_TURING[name]} is not supported." in caught.value.message
            assert "fp16" in str(caught.value.hint)
            continue
        built = build(trt, request, source, output, lambda *_: None)
        assert output.stat().st_size > 1000, target
        counts = built.layer_counts
        expected = layers_in(source, precision) or counts.compute
        assert counts.of(precision) == expected > 0, target
        assert [one.mode for one in built.tensors].count("input") == len(net.profiles[0])


def check_refusal(trt: Any, refused: NoEngine, net: Net, column: str) -> None:
    """The plan refuses with a sentence what TensorRT-RTX refuses with «HW-specific datatypes».

    TensorRT-RTX does build INT8 for Turing, where NVIDIA lists none.
    """
    from deployfold.compiling.tensorrt.builder import build

    precision, source = precision_of(column), net.onnx(column)
    assert refused.reason.startswith(f"No {precision.value} engine for {refused.target}: ")
    pair = (int(refused.target[3:-1]), int(refused.target[-1]))
    assert pair < precision.record.oldest_for("tensorrt_rtx")
    if precision is Precision.INT8:
        return
    request = EngineRequest("tensorrt_rtx", precision, ("test",), (pair,), profiles=net.profiles)
    with pytest.raises(CompileError, match="HW-specific datatypes"):
        build(trt, request, source, source.with_suffix(".engine"), lambda *_: None)


def test_a_refusal_of_the_hardware_leaves_nothing_for_the_device() -> None:
    for target, precision, elsewhere in (
        ("t4", Precision.BF16, False),
        ("a10", Precision.FP8, False),
        ("t4", Precision.INT4, True),  # TensorRT has int4 there
        ("t4", Precision.INT8, True),
        ("h100", Precision.FP8, True),
    ):
        (entry,) = plan_engines([target], precision, HERE)
        assert isinstance(entry, NoEngine)
        assert entry.elsewhere == elsewhere, entry


@pytest.mark.parametrize("target", REFUSED)
@pytest.mark.parametrize("precision", Precision)
def test_a_target_without_a_compiler_is_refused_with_the_reason(
    target: str, precision: Precision
) -> None:
    name = "jetson-agx-xavier" if target == "sm_72" else target
    (entry,) = plan_engines([name], precision, HERE)
    assert isinstance(entry, NoEngine)
    pair = (int(target[3:-1]), int(target[-1]))
    assert target in entry.reason
    if pair < precision.record.oldest_for("tensorrt"):  # no machine builds it
        assert f"TensorRT builds {precision.value} for sm_" in entry.reason
        assert not entry.elsewhere
    else:
        assert REFUSED[target] in entry.reason
        assert entry.elsewhere


def test_a_worker_builds_the_same_and_its_sidecar_says_for_what(
    nets: dict[str, Net], tmp_path: Path
) -> None:
    net = nets["fully-convolutional"]
    request = planned("auto", "fp16", net)
    assert isinstance(request, EngineRequest)
    made = compile_engine(net.onnx("fp16"), tmp_path / "net.engine", request)
    assert read_sidecar(made.path).built_for == TARGETS["auto"]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["torchvision:resnet50", "timm:efficientnet_lite0"])
def test_a_real_network_builds_for_every_target(source: str, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")
    import warnings

    import torch

    from deployfold.config.optimization_profiles import InputShapes
    from deployfold.folding import fold
    from deployfold.loading import load_model

    module, x = load_model(source).module, torch.randn(1, 3, 224, 224)
    path = tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            fold(module, (x,)).model, (x,), str(path), dynamo=False, opset_version=20,
            input_names=["x"],
        )  # fmt: skip
    profile = (InputShapes("x", tuple(x.shape), tuple(x.shape), tuple(x.shape)),)
    net = Net(path, ({"x": x.numpy()},), (profile,))
    for column in COLUMNS:
        precision = precision_of(column)
        for target in TARGETS:
            request = planned(target, column, net)
            if isinstance(request, NoEngine):
                assert request.reason.startswith(f"No {precision.value} engine for {target}: ")
                continue
            if target == "sm_75" and column == "fp32":
                # Its classifier is a matrix product.
                with pytest.raises(CompileError, match="for sm_75: FP32 GEMM is not supported"):
                    compile_engine(net.onnx(column), tmp_path / "none.engine", request)
                continue
            made = compile_engine(net.onnx(column), tmp_path / f"{target}.engine", request)
            counts, expected = made.layer_counts, layers_in(net.onnx(column), precision)
            assert counts.of(precision) == (expected or counts.compute), target
