"""Every kind of ONNX graph in every precision: lowered, valid, runnable, and near to fp32."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from lower_toys import FLOAT, HALF, normal
from lowering_calls import lower_cast, lower_qdq
from operator_kinds import KINDS, WIDTH, write_kind

from deployfold.config.accuracy import GuardSpec
from deployfold.config.precision import Precision
from deployfold.exporting.session import open_session, run_session

FEEDS = [{"x": normal((4, WIDTH), seed)} for seed in range(4)]

WAYS = {
    "fp16": (Precision.FP16, {}),
    "fp16 with fp16 inputs": (Precision.FP16, {"float_io": False}),
    "bf16": (Precision.BF16, {}),
    "int8": (Precision.INT8, {}),
    "int8 with fp16 inputs": (Precision.INT8, {"float_io": False}),
    "int8, rest in fp32": (Precision.INT8, {"fallback": Precision.FP32}),
    "fp8": (Precision.FP8, {}),
    "int4": (Precision.INT4, {}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_lowered(kind, way, tmp_path):
    source, path = write_kind(KINDS[kind](), tmp_path / "net.onnx"), tmp_path / "lowered.onnx"
    precision, options = WAYS[way]
    if kind == "output named twice":
        session = open_session(source)
        assert len(session.get_outputs()) == 2
    loose = GuardSpec(enabled=False)
    if precision.record.family == "cast":
        made = lower_cast(source, path, precision, inputs=FEEDS, **options)
    else:
        made = lower_qdq(
            source, path, precision=precision, calibration=FEEDS[:2], held_back=FEEDS[2:],
            guard=loose, **options,
        )  # fmt: skip
    integers = kind in ("TopK, indices alone", "class numbers")
    assert made.sqnr_db > (0 if integers else 12), made.kept
    before, after = onnx.load(source), onnx.load(path)
    assert [v.name for v in after.graph.output] == [v.name for v in before.graph.output]
    assert [v.name for v in after.graph.input] == ["x"]
    ends = [v.type.tensor_type.elem_type for v in (*after.graph.input, *after.graph.output)]
    assert (HALF if options.get("float_io", True) else FLOAT) not in ends
    if precision is not Precision.BF16:  # which ONNX Runtime cannot run on a CPU
        wanted = run_session(open_session(source, optimize=False), FEEDS[3])
        found = run_session(open_session(path, optimize=False), FEEDS[3])
        for expected, given in zip(wanted, found, strict=True):
            assert np.shape(expected) == np.shape(given)
