"""The file that ``--choose`` named comes first among those of its runtime on a device."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployfold.bundle.device.artifacts import Artifact, order

FILES = tuple(
    Artifact(Path(name), precision, None)
    for name, precision in (
        ("net.onnx", "fp32"), ("net.fp16.onnx", "fp16"), ("net.int8.onnx", "int8"),
        ("net.fp16.sm_89.engine", "fp16"), ("net.int8.sm_89.engine", "int8"),
    )
)  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "first", "first_onnx"),
    [
        (None, "net.int8.sm_89.engine", "net.onnx"),
        ("net.int8.onnx", "net.int8.sm_89.engine", "net.int8.onnx"),
        ("net.fp16.sm_89.engine", "net.fp16.sm_89.engine", "net.onnx"),
    ],
)
def test_the_chosen_file_comes_first(chosen: str | None, first: str, first_onnx: str) -> None:
    names = [one.file.name for one in order(FILES, gpu=False, chosen=chosen)]
    assert names[0] == first
    assert next(name for name in names if name.endswith(".onnx")) == first_onnx
