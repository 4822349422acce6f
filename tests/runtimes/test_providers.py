"""ONNX Runtime's execution providers, with what the ONNX Runtime of this machine has of them.

Its Azure provider takes no operator of a usual model, so it shows what ONNX Runtime does not say:
that all of a model runs on the CPU.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from deployfold.bench.bench import bench
from deployfold.errors import DeployfoldError, MeasureError, UsageError
from deployfold.runtimes.onnxruntime import OnnxRuntimeRunner
from deployfold.runtimes.onnxruntime_providers import (
    CPU,
    Placement,
    open_session,
    placed,
    resolve_provider,
)
from deployfold.runtimes.settings import RunSettings

AZURE = "AzureExecutionProvider"
needs_azure = pytest.mark.skipif(
    AZURE not in ort.get_available_providers(), reason="this ONNX Runtime has no Azure provider"
)
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"


@pytest.fixture
def net(tmp_path: Path) -> Path:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Add", ["y", "y"], ["z"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xz"]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("text", [None, "cpu", "CPU", "CPUExecutionProvider"])
def test_a_provider_has_several_names(text: str | None) -> None:
    assert resolve_provider(text) == CPU


@pytest.mark.parametrize(
    ("text", "title", "package"),
    [
        ("cuda", "CUDA", "onnxruntime-gpu"),
        ("CUDAExecutionProvider", "CUDA", "onnxruntime-gpu"),
        ("tensorrt", "TensorRT", "onnxruntime-gpu"),
        ("tensorrt-rtx", "TensorRT-RTX", "onnxruntime-ep-nv-tensorrt-rtx"),
        ("NvTensorRTRTX", "TensorRT-RTX", "onnxruntime-ep-nv-tensorrt-rtx"),
    ],
)
def test_a_missing_provider_names_the_package(text: str, title: str, package: str) -> None:
    if title == "TensorRT-RTX" and importlib.util.find_spec(PLUGIN):
        pytest.skip("it is installed")
    if any(title in name for name in ("CUDA", "TensorRT") if _has(name)):
        pytest.skip("this ONNX Runtime has it")
    with pytest.raises(UsageError) as caught:
        resolve_provider(text)
    assert caught.value.message == f"ONNX Runtime's {title} provider is not installed here."
    assert package in str(caught.value.hint)


def _has(title: str) -> bool:
    return any(name.lower().startswith(title.lower()) for name in ort.get_available_providers())


def test_an_unknown_provider_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="has no provider 'abacus'") as caught:
        resolve_provider("abacus")
    assert "CPU" in str(caught.value.hint)


@pytest.mark.skipif(importlib.util.find_spec(PLUGIN) is None, reason=f"{PLUGIN} is not installed")
def test_the_plugin_is_loaded_or_says_what_it_lacks() -> None:
    try:
        assert resolve_provider("tensorrt-rtx") == "NvTensorRTRTXExecutionProvider"
    except MeasureError as error:
        assert "TensorRT-RTX provider cannot be loaded here" in error.message  # noqa: PT017


@needs_azure
def test_a_model_that_would_all_run_on_the_cpu_is_refused(net: Path) -> None:
    runner = OnnxRuntimeRunner(net, RunSettings(provider="azure"))
    with pytest.raises(MeasureError, match=r"takes none of the 2 nodes of net\.onnx"):
        runner.load()


def test_a_provider_that_does_not_start_is_an_error_and_not_the_cpu(net: Path) -> None:
    with pytest.raises(DeployfoldError, match=r"does not start here|cannot be loaded"):
        open_session(net, ort.SessionOptions(), "ROCMExecutionProvider")


def test_nodes_are_counted_by_provider(net: Path) -> None:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(str(net), options, providers=[CPU])
    assert placed(session, CPU) == Placement(2, {})
    assert placed(session, "CUDAExecutionProvider") == Placement(2, {"Relu": 1, "Add": 1})


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        (Placement(7, {}), "all 7 nodes"),
        (Placement(7, {"Shape": 1, "Add": 2}), "all but 3 of 7 nodes (on the CPU: Add, Shape)"),
        (
            Placement(9, dict.fromkeys("abcdef", 1)),
            "all but 6 of 9 nodes (on the CPU: a, b, c, d and 2 kinds more)",
        ),
    ],
)
def test_nodes_left_to_the_cpu_are_named(placement: Placement, expected: str) -> None:
    assert str(placement) == expected


@needs_azure
def test_bench_has_a_row_for_every_provider(net: Path) -> None:
    report = bench([net], providers=("cpu", "azure", "CPU"), max_seconds=0.2)
    cpu, azure = report.rows
    assert (cpu.name, cpu.title, cpu.notes) == ("net.onnx", "net.onnx", ())
    assert cpu.latency is not None
    assert (azure.name, azure.title) == ("net.onnx-azure", "net.onnx, Azure")
    assert "takes none of the 2 nodes" in str(azure.not_measured)


def test_the_cpu_needs_no_word(net: Path) -> None:
    runner = OnnxRuntimeRunner(net)
    runner.load()
    (output,) = runner.run((np.float32([-1, 2]),))
    np.testing.assert_array_equal(output, [0, 4])
    assert (runner.notes, runner.placement, runner.output_names) == ((), None, ("z",))
    runner.close()
