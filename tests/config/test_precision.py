"""The precision records: complete, and what the rest of the package reads from them."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import onnx
import pytest

import deployfold
from deployfold.compiling.records import LayerCounts
from deployfold.compiling.tensorrt.network import DTYPES
from deployfold.config.accuracy import parse_min_sqnr
from deployfold.config.make_spec import spec_of_keywords
from deployfold.config.precision import QUANTISED, Precision, titles
from deployfold.errors import UsageError
from deployfold.targets.catalogue import PRECISIONS
from deployfold.targets.libraries import precision_refusal


@pytest.mark.parametrize("precision", Precision)
def test_a_record_is_complete(precision):
    record = precision.record
    assert record.name == precision.value == Precision(record.name).value
    assert record.onnx_type in onnx.TensorProto.DataType.keys()  # noqa: SIM118
    assert bool(record.no_cpu_latency) == (precision is not Precision.FP32)
    if record.family == "qdq":
        assert record.calibration in ("optional", "required")
        assert record.weights_only == (record.calibration == "optional")
    else:
        assert record.calibration == "none"
    assert record.family == "none" or record.min_sqnr_db > 0
    assert not record.summary.startswith("It")


def test_a_member_is_its_name_wherever_it_is_written():
    assert json.dumps([Precision.FP8]) == '["fp8"]'
    assert pickle.loads(pickle.dumps(Precision.INT4)) is Precision.INT4
    assert f"{Precision.BF16.value}" == "bf16"
    with pytest.raises(ValueError, match="fp3"):
        Precision("fp3")


def test_the_families():
    assert [one.value for one in QUANTISED] == ["int8-weights", "int8", "fp8", "int4"]
    assert titles(QUANTISED) == "INT8 weights, INT8, FP8 and INT4"
    assert titles(QUANTISED[:1]) == "INT8 weights"


def test_int4_needs_an_ampere_gpu_of_tensorrt_rtx_alone():
    assert precision_refusal(Precision.INT4, [(7, 5)], "tensorrt") is None
    refusal = precision_refusal(Precision.INT4, [(7, 5)], "tensorrt_rtx")
    assert refusal is not None
    assert "sm_80" in refusal


def test_the_limit_of_a_precision():
    spec = spec_of_keywords("net.pt", {"fp16": True, "min_sqnr": 25.0})
    limits = {one.value: spec.guard.min_sqnr(one) for one in Precision}
    assert (limits["fp16"], limits["bf16"], limits["int8"], limits["int4"]) == (30, 20, 25, 25)
    spec = spec_of_keywords("net.pt", {"min_sqnr_for": ["fp16=40", "int8=15.5"]})
    limits = {one.value: spec.guard.min_sqnr(one) for one in Precision}
    assert (limits["fp16"], limits["bf16"], limits["int8"], limits["fp8"]) == (40, 20, 15.5, 20)


@pytest.mark.parametrize("text", ["40", "fp3=40", "fp16=", "fp32=10", "fp16=nan"])
def test_a_malformed_limit_is_refused(text):
    with pytest.raises(UsageError, match="PRECISION=DB") as caught:
        parse_min_sqnr((text,))
    assert "fp16, bf16, int8" in str(caught.value.hint)


def test_nodes_to_keep_are_options():
    spec = spec_of_keywords("net.pt", {"keep_fp32": ["head", "*.norm"], "keep_fp32_op": ["Exp"]})
    assert spec.keep.names == ("head", "*.norm")
    assert spec.keep.operators == ("Exp",)


def test_only_its_record_and_its_format_name_a_precision():
    root = Path(deployfold.__file__).parent
    code = {
        path.relative_to(root).as_posix(): re.sub("#.*", "", path.read_text(encoding="utf-8"))
        for path in root.rglob("*.py")
    }
    for name in ("fp8", "int4"):  # precisions without an option of their own
        named = {where for where, text in code.items() if re.search(rf"(?i)\b{name}\b", text)}
        assert named == {"config/precision.py", "lowering/qdq/formats.py"}


@pytest.mark.parametrize("precision", Precision)
def test_every_record_reaches_what_is_derived_from_the_records(precision):
    counts = LayerCounts(9, 1, 2, {one: 4 * (one is precision) for one in Precision})
    assert LayerCounts.from_json(counts.to_json()) == counts
    assert (counts.compute, counts.of(precision)) == (4, 4)
    assert DTYPES[precision.record.tensorrt_type] == precision.record.dtype
    assert (precision.value in PRECISIONS) == precision.record.tensor_cores
