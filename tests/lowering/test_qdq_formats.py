"""FP8 and INT4 with the Q/DQ of INT8: their numbers, their places, and their error."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_examples import examples
from lower_toys import export_module
from lowering_calls import lower_qdq
from onnx import TensorProto, helper, numpy_helper
from qdq_nets import INT4_NETS, LOOSE, NETS, audit, made
from torch import nn

from deployfold.compiling.records import EngineRequest
from deployfold.compiling.tensorrt.compile import compile_engine
from deployfold.config.accuracy import GuardSpec
from deployfold.config.precision import Precision
from deployfold.errors import AccuracyError, ExportError
from deployfold.exporting.session import open_session, run_session
from deployfold.lowering import lower
from deployfold.lowering.qdq.formats import FP8, INT4, INT8, Format
from deployfold.lowering.qdq.layers import Layer
from deployfold.lowering.qdq.rounding import plain
from deployfold.lowering.request import LoweringData
from deployfold.targets.libraries import precision_refusal


def quantise(name: str, precision: Precision, tmp_path: Path, **options):
    source, feeds, _ = made(name, tmp_path / "net.onnx")
    options = {"guard": LOOSE} | options
    return lower_qdq(
        source, tmp_path / "q.onnx", precision=precision, calibration=feeds[:16],
        held_back=feeds[16:], **options,
    )  # fmt: skip


SLOWER = ("two inputs", "1-D", "transposed")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOWER else ()) for n in NETS]
)
def test_every_fp8_pair_has_the_form_that_tensorrt_accepts(name, tmp_path):
    artifact = quantise(name, Precision.FP8, tmp_path)
    assert audit(artifact.path, Precision.FP8) == len(artifact.layers)
    assert artifact.macs_share == 1.0
    assert {layer.precision for layer in artifact.layers} == {"fp8"}
    assert artifact.sqnr_db > 18, "3 bits of mantissa leave about 31 dB of one tensor"
    model = onnx.load(artifact.path)
    assert {item.key: item.value for item in model.metadata_props}["deployfold.precision"] == "fp8"


@pytest.mark.parametrize("name", INT4_NETS)
@pytest.mark.parametrize("fitted", [True, False])
def test_int4_is_for_the_weights_of_matrix_products(name, fitted, tmp_path):
    artifact = quantise(name, Precision.INT4, tmp_path, fitted=fitted)
    assert audit(artifact.path, Precision.INT4) == 2
    assert artifact.sqnr_db > 15
    model = onnx.load(artifact.path)
    assert not any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    reasons = {layer.reason for layer in artifact.layers if layer.precision == "fp16"}
    if name == "wide":
        assert not reasons
        assert artifact.macs_share == 1.0
        return
    assert reasons == {"int4 is for matrix products", "its 36 inputs are not a multiple of 32"}
    products, others = 6 * 64 * 256 + 256 * 36, 6 * 64 * 64 + 36 * 8
    assert artifact.macs_share == pytest.approx(products / (products + others))
    assert any("int4 is for 2 of 4 layers" in note for note in artifact.notes)
    assert {layer.estimator for layer in artifact.layers if layer.precision == "int4"} == {
        "blocks of 64", "blocks of 128",
    }  # fmt: skip


def test_int4_weights_are_a_quarter_of_fp16(tmp_path):
    artifact = quantise("products", Precision.INT4, tmp_path)
    tensors = {t.name: t for t in onnx.load(artifact.path).graph.initializer}
    stored = [t for t in tensors.values() if t.data_type == TensorProto.INT4]
    sizes = sorted((len(t.raw_data), int(np.prod(t.dims))) for t in stored)
    assert sizes == [(256 * 36 // 2, 256 * 36), (64 * 256 // 2, 64 * 256)]


def test_int4_weights_are_fitted_to_data(tmp_path):
    """Correlated inputs let other weights compensate for the rounding."""
    source, feeds, _ = made("wide", tmp_path / "net.onnx")
    key = next(iter(feeds[0]))
    random = np.random.default_rng(3)
    mix = random.standard_normal((96, 96)) / np.arange(1, 97)
    feeds = [{key: (random.standard_normal((1, 96)) @ mix).astype("f4")} for _ in range(96)]
    parts = {"calibration": feeds[:64], "held_back": feeds[64:], "guard": LOOSE}
    fitted, nearest = (
        lower_qdq(source, tmp_path / "q.onnx", precision=Precision.INT4, fitted=one, **parts)
        for one in (True, False)
    )
    assert fitted.sqnr_db > nearest.sqnr_db + 1


@pytest.mark.parametrize("precision", [Precision.FP8, Precision.INT4])
def test_the_guard_holds_every_format(precision, tmp_path):
    limit = GuardSpec(min_sqnr_db=60.0, min_quantized_share=0.9)
    with pytest.raises(AccuracyError, match=f"{precision.value.upper()} gives"):
        quantise("wide", precision, tmp_path, guard=limit)
    assert not (tmp_path / "q.onnx").exists()
    if precision is Precision.INT4:
        free = quantise("products", precision, tmp_path)
        limit = GuardSpec(min_sqnr_db=free.sqnr_db + 0.5, min_quantized_share=0.0)
        held = quantise("products", precision, tmp_path, guard=limit)
        assert held.sqnr_db >= free.sqnr_db + 0.5
        assert len(held.kept) == 1
        assert "alone in INT4" in held.kept[0].reason
        assert audit(held.path, precision) == 1


def test_a_model_without_products_has_nothing_for_int4(tmp_path):
    with pytest.raises(ExportError, match="no matrix product with a constant weight of 32, 64"):
        quantise("residual", Precision.INT4, tmp_path)


@pytest.mark.parametrize("name", ["residual", "attention"])
def test_int8_weights_take_convolutions_and_products_without_data(name, tmp_path):
    source, feeds, _ = made(name, tmp_path / "net.onnx")
    data = LoweringData(feeds)
    artifact = lower(source, tmp_path / "q.onnx", Precision.INT8_WEIGHTS, data)
    assert artifact.macs_share == 1.0
    assert {layer.precision for layer in artifact.layers} == {"int8-weights"}
    assert artifact.sqnr_db > 35, "a weight alone has 8 bits for each channel"
    model = onnx.load(artifact.path)
    assert not any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    stored = [t for t in model.graph.initializer if t.data_type == TensorProto.INT8 and t.dims]
    assert len([t for t in stored if len(t.dims) > 1]) == len(artifact.layers)
    pytest.importorskip("tensorrt_rtx")
    request = EngineRequest("tensorrt_rtx", Precision.INT8_WEIGHTS, ("sm_89",), ((8, 9),))
    counts = compile_engine(artifact.path, tmp_path / "q.engine", request).layer_counts
    assert counts.of(Precision.INT8_WEIGHTS) == len(artifact.layers)
    assert counts.quantize == 0


def test_int8_weights_are_refused_on_turing_by_tensorrt_rtx():
    refusal = precision_refusal(Precision.INT8_WEIGHTS, [(7, 5)], "tensorrt_rtx")
    assert refusal is not None
    assert "sm_80" in refusal


def test_layers_that_share_a_bias_are_quantised(tmp_path):
    """The exporter stores equal biases once, and gives them to the others through an Identity."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    with torch.no_grad():
        net[0].bias.fill_(0.5)
        net[2].bias.fill_(0.5)
    source = export_module(net, (torch.randn(1, 3, 12, 12),), tmp_path / "net.onnx")
    model = onnx.load(source)
    assert any(node.op_type == "Identity" for node in model.graph.node)
    feed = {model.graph.input[0].name: np.ones((1, 3, 12, 12), np.float32)}
    artifact = lower(source, tmp_path / "q.onnx", Precision.INT8_WEIGHTS, LoweringData([feed]))
    assert len(artifact.layers) == 2


@given(
    st.lists(st.floats(-2000, 2000, width=32), min_size=1, max_size=50),
    st.floats(2**-10, 10, width=16),
)
@settings(max_examples=examples(50))
def test_fake_quantisation_equals_onnx_runtimes(values, scale):
    array = np.asarray(values, np.float32)
    for form in (INT8, FP8):
        ours = form.fake_quantise(torch.from_numpy(array.copy()), scale).numpy()
        theirs = run_session(_pair(form), {"x": array, "s": np.float32(scale)})[0]
        np.testing.assert_array_equal(ours, theirs)


_SESSIONS = {}


def _pair(form: Format):
    if form.precision not in _SESSIONS:
        kind = int(form.dtype)
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ]
        one = TensorProto.FLOAT
        graph = helper.make_graph(
            nodes, "pair",
            [helper.make_tensor_value_info(n, one, d) for n, d in (("x", ["n"]), ("s", []))],
            [helper.make_tensor_value_info("y", one, ["n"])],
            [numpy_helper.from_array(form.stored(np.zeros(())), "z")],
        )  # fmt: skip
        assert graph.initializer[0].data_type == kind
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", form.opset)], ir_version=10
        )
        _SESSIONS[form.precision] = open_session(model.SerializeToString(), optimize=False)
    return _SESSIONS[form.precision]


def test_every_number_of_a_format_stays_as_it_is():
    every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    for form, numbers in (
        (FP8, every[np.isfinite(every)]),
        (INT8, np.arange(-127.0, 128.0)),
        (INT4, np.arange(-7.0, 8.0)),
    ):
        numbers = torch.from_numpy(numbers.astype(np.float32))
        assert float(numbers.abs().max()) == form.largest
        torch.testing.assert_close(form.round(numbers), numbers, rtol=0, atol=0)
        far = form.round(torch.tensor([1e30, -1e30]))
        assert far.tolist() == [form.largest, -form.largest]
        np.testing.assert_array_equal(form.stored(numbers.numpy()).astype("f4"), numbers)


def test_a_block_has_a_scale_of_its_own():
    weight = np.random.default_rng(0).standard_normal((64, 4)).astype("f4")
    weight[32:] *= 1e-3
    layer = Layer("l", "MatMul", "x", "y", "w", None, axis=1, block=32)
    codes, scales = plain(layer, weight, INT4)
    assert scales.shape == (2, 4)
    restored = codes.astype("f4") * scales.repeat(32, 0)
    for part in (slice(0, 32), slice(32, 64)):
        noise = np.square(weight[part] - restored[part]).sum() / np.square(weight[part]).sum()
        assert noise < 0.02
    assert INT4.block_of(384) == 128
    assert INT4.block_of(192) == 64
    assert INT4.block_of(36) is None
    assert INT8.block_of(36) == 0
