"""An engine of the head of a model is compared with what the fp32 head gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deployfold.errors import MeasureError
from deployfold.finish.device import _expected
from deployfold.finish.kit import Kit
from deployfold.finish.reference import write_reference


def test_the_reference_of_a_head_is_its_own(tmp_path: Path) -> None:
    boxes, scores = np.ones((1, 9, 4), np.float32), np.ones((1, 9), np.float32)
    whole = {"kept": np.arange(3)}
    kit = Kit({}, (), {"x": boxes}, whole, tmp_path / "report.json")
    assert _expected(kit, tmp_path / "det.fp16.sm_89.engine") == (whole["kept"],)
    head = tmp_path / "det.head.fp16.sm_89.engine"
    with pytest.raises(MeasureError, match=r"det\.head\.reference\.npz cannot be read"):
        _expected(kit, head)
    write_reference(tmp_path / "det.head.reference.npz", [boxes], [boxes, scores])
    assert [one.shape for one in _expected(kit, head)] == [(1, 9, 4), (1, 9)]


def test_the_tail_and_the_reference_travel_with_a_head(tmp_path: Path) -> None:
    from deployfold.config.precision import Precision
    from deployfold.finish.remote import _needed

    onnx = {Precision.FP16: tmp_path / "det.head.fp16.onnx"}
    kit = Kit(onnx, (), {}, {}, tmp_path / "report.json")
    names = {path.name for path in _needed(tmp_path, kit)}
    assert {"det.head.fp16.onnx", "det.tail.onnx", "det.head.reference.npz"} <= names
    whole = Kit({Precision.FP16: tmp_path / "net.fp16.onnx"}, (), {}, {}, kit.report)
    assert len(_needed(tmp_path, whole)) == 4
