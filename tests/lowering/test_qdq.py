"""INT8: the places of Q/DQ, the error, and the build by TensorRT-RTX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from lower_toys import export_module
from lowering_calls import lower_int8
from onnx import numpy_helper
from qdq_nets import LOOSE, NETS, audit, made
from torch import nn

from deployfold.compiling.records import EngineRequest
from deployfold.compiling.tensorrt.compile import compile_engine
from deployfold.config.accuracy import GuardSpec
from deployfold.config.precision import Precision
from deployfold.errors import AccuracyError, ExportError
from deployfold.exporting.session import open_session, run_session
from deployfold.lowering.accuracy import Measurer


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("rest", [Precision.FP16, Precision.FP32])
def test_every_pair_has_the_form_that_tensorrt_accepts(name, rest, tmp_path):
    source, feeds, _ = made(name, tmp_path / "net.onnx")
    artifact = lower_int8(
        source, tmp_path / "int8.onnx", calibration=feeds[:16], held_back=feeds[16:],
        fallback=rest, guard=LOOSE,
    )  # fmt: skip
    assert audit(artifact.path) == len(artifact.layers)
    assert artifact.macs_share == 1.0
    assert artifact.sqnr_db > 22, artifact.layers[:3]
    order = {tensor: place for place, node in enumerate(onnx.load(source).graph.node)
             for tensor in node.input}  # fmt: skip
    places = [order[f"{layer.name}.weight"] for layer in artifact.layers
              if f"{layer.name}.weight" in order]  # fmt: skip
    assert places == sorted(places), "in the order of the graph"
    half = numpy_helper.to_array
    types = {half(tensor).dtype for tensor in onnx.load(artifact.path).graph.initializer}
    assert (np.dtype(np.float16) in types) == (rest is Precision.FP16)


@pytest.mark.parametrize("name", ["residual", "two inputs", "1-D", "MLP", "attention"])
@pytest.mark.parametrize("rest", [Precision.FP16, Precision.FP32])
def test_tensorrt_rtx_builds_it(name, rest, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    source, feeds, _ = made(name, tmp_path / "net.onnx")
    artifact = lower_int8(
        source, tmp_path / "int8.onnx", calibration=feeds[:8], held_back=feeds[8:12],
        fallback=rest, guard=LOOSE,
    )  # fmt: skip
    request = EngineRequest("tensorrt_rtx", Precision.INT8, ("sm_86", "sm_89"), ((8, 6), (8, 9)))
    engine = compile_engine(artifact.path, tmp_path / "net.engine", request)
    assert engine.bytes > 0


def test_macs_are_counted(tmp_path):
    source, feeds, _ = made("residual", tmp_path / "net.onnx")
    artifact = lower_int8(
        source, tmp_path / "int8.onnx", calibration=feeds[:4], held_back=feeds[4:6], guard=LOOSE
    )
    macs = sorted(layer.macs for layer in artifact.layers)
    assert macs == sorted([256 * 8 * 27, 256 * 8 * 9, 256 * 8 * 8, 8 * 5])


def test_the_bias_makes_up_for_the_mean(tmp_path):
    """Behind the activation, where it counts, and with it no channel's mean is off.

    Samples of one picture: no second one can judge the correction, so every layer has it.
    """
    source, feeds, _ = made("residual", tmp_path / "net.onnx")
    artifact = lower_int8(
        source, tmp_path / "int8.onnx", calibration=feeds, pictures=[0] * len(feeds),
        held_back=feeds[:2], fallback=Precision.FP32, guard=LOOSE,
    )  # fmt: skip

    def mean(path: Path) -> np.ndarray:
        session = open_session(path, optimize=False)
        return np.mean([run_session(session, feed)[0].mean(0) for feed in feeds], 0)

    np.testing.assert_allclose(mean(artifact.path), mean(source), atol=2e-4)


def test_accuracy_with_labels(tmp_path):
    source, feeds, _ = made("residual", tmp_path / "net.onnx")
    session = open_session(source)
    classes = [int(run_session(session, feed)[0].argmax()) for feed in feeds[8:]]
    labels = [classes[0] + 1, *classes[1:]]
    artifact = lower_int8(
        source, tmp_path / "int8.onnx", calibration=feeds[:8], held_back=feeds[8:], labels=labels,
        guard=LOOSE,
    )  # fmt: skip
    assert artifact.reference_accuracy == pytest.approx(15 / 16)
    assert artifact.top1_agreement is not None
    assert artifact.accuracy >= artifact.top1_agreement - 1 / 16


def test_the_guard_puts_back_what_costs_most(tmp_path):
    """A tiny first layer with one huge input channel ruins int8; all else is harmless."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 3)
    ).eval()
    with torch.no_grad():
        net[0].weight[:, 0] *= 1e-3
    source = export_module(net, (torch.randn(1, 3, 12, 12),), tmp_path / "net.onnx")
    key = onnx.load(source).graph.input[0].name
    random = np.random.default_rng(0)
    feeds = [{key: random.standard_normal((1, 3, 12, 12)).astype("float32")} for _ in range(24)]
    for feed in feeds:
        feed[key][:, 0] *= 1e3
    options = {"calibration": feeds[:16], "held_back": feeds[16:]}
    free = lower_int8(source, tmp_path / "free.onnx", guard=LOOSE, **options)
    assert free.sqnr_db < 20
    shares: list[float | None] = []
    held = lower_int8(
        source, tmp_path / "held.onnx", guard=GuardSpec(min_sqnr_db=25.0),
        progress=lambda _, done=None: shares.append(done), **options,
    )  # fmt: skip
    assert held.sqnr_db >= 25
    assert [layer.precision for layer in held.layers].count("fp16") == len(held.kept) == 1
    kept = next(layer for layer in held.layers if layer.precision == "fp16")
    assert kept.macs == min(layer.macs for layer in held.layers)
    assert "put back by the guard" in kept.reason
    assert held.macs_share > 0.98
    known = [share for share in shares if share is not None]
    assert known == sorted(known)
    assert shares[: len(known)] == known  # the bar never restarts once the search is on
    assert known[-1] == pytest.approx(0.8)
    with pytest.raises(AccuracyError, match="dB"):
        lower_int8(
            source, tmp_path / "no.onnx", **options,
            guard=GuardSpec(min_sqnr_db=90.0, min_quantized_share=0.9),
        )  # fmt: skip
    assert not (tmp_path / "no.onnx").exists()


@pytest.mark.parametrize(
    "more",
    [1.0, pytest.param(3.0, marks=pytest.mark.slow), pytest.param(5.0, marks=pytest.mark.slow)],
)
def test_the_written_model_is_the_model_that_met_the_limit(more, tmp_path):
    """The guard's last tries may be worse than the one it chooses."""
    torch.manual_seed(0)
    layers = [part for _ in range(8) for part in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Conv2d(8, 4, 1)).eval()
    source = export_module(net, (torch.randn(1, 8, 12, 12),), tmp_path / "net.onnx")
    key = onnx.load(source).graph.input[0].name
    random = np.random.default_rng(0)
    feeds = [{key: random.standard_normal((1, 8, 12, 12)).astype("float32")} for _ in range(24)]
    options = {"calibration": feeds[:8], "held_back": feeds[8:], "fallback": Precision.FP32}
    free = lower_int8(source, tmp_path / "free.onnx", guard=LOOSE, **options)
    guard = GuardSpec(min_sqnr_db=free.sqnr_db + more, min_quantized_share=0.0)
    held = lower_int8(source, tmp_path / "held.onnx", guard=guard, **options)
    found = Measurer(source, feeds[8:], None).measure(held.path)
    assert found.sqnr_db == pytest.approx(held.sqnr_db, abs=1e-3)
    assert found.sqnr_db >= guard.min_sqnr_db


def test_inputs_without_values_are_refused(tmp_path):
    source, feeds, _ = made("MLP", tmp_path / "net.onnx")
    key = next(iter(feeds[0]))
    broken = {key: np.full_like(feeds[0][key], np.nan)}
    for calibration, held_back in (([broken], feeds), (feeds, [broken])):
        with pytest.raises(ExportError, match="NaN"):
            lower_int8(source, tmp_path / "x.onnx", calibration=calibration, held_back=held_back)
    zero = {key: np.zeros_like(feeds[0][key])}
    artifact = lower_int8(
        source, tmp_path / "zero.onnx", calibration=[zero], held_back=[zero], guard=LOOSE
    )
    assert audit(artifact.path) == 2


def test_a_model_without_layers_is_refused(tmp_path):
    source = export_module(nn.Softmax(-1), (torch.randn(1, 4),), tmp_path / "net.onnx")
    feed = {onnx.load(source).graph.input[0].name: np.ones((1, 4), np.float32)}
    with pytest.raises(ExportError, match="nothing to quantise"):
        lower_int8(source, tmp_path / "x.onnx", calibration=[feed], held_back=[feed])


def test_layers_are_named_as_their_modules(tmp_path):
    source, feeds, net = made("residual", tmp_path / "net.onnx")
    artifact = lower_int8(
        source, tmp_path / "int8.onnx", calibration=feeds[:4], held_back=feeds[4:6], guard=LOOSE
    )
    modules = {name for name, module in net.named_modules() if hasattr(module, "weight")}
    assert {layer.name for layer in artifact.layers} == modules


def test_a_limit_on_agreement_without_classes_is_noted_as_unused(tmp_path):
    source, feeds, _ = made("1-D", tmp_path / "net.onnx")
    artifact = lower_int8(
        source, tmp_path / "int8.onnx", calibration=feeds[:4], held_back=feeds[4:6],
        guard=GuardSpec(min_sqnr_db=5.0, min_agreement=0.95),
    )  # fmt: skip
    assert artifact.top1_agreement is None
    assert any("--min-agreement" in note for note in artifact.notes)
