"""The stored inference: read as it was written, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deployfold.finish.reference import REFERENCE_NPZ, read_reference, write_reference


def test_the_reference_is_read_in_the_models_order(tmp_path: Path) -> None:
    inputs = [np.full((2, index + 1), index, np.float32) for index in range(12)]
    outputs = [np.arange(3), np.float64(7.0) * np.ones(())]
    write_reference(tmp_path / REFERENCE_NPZ, inputs, outputs)
    given, expected = read_reference(tmp_path / REFERENCE_NPZ)
    for written, read in zip((*inputs, *outputs), (*given, *expected), strict=True):
        np.testing.assert_array_equal(read, written)
        assert read.dtype == written.dtype
    assert len(given) == 12


@pytest.mark.parametrize("damage", ["cut", "bits", "empty", "another array"])
def test_a_damaged_one_is_a_value_error(damage: str, tmp_path: Path) -> None:
    path = tmp_path / REFERENCE_NPZ
    write_reference(path, [np.ones((4, 4))], [np.ones(3)])
    content = bytearray(path.read_bytes())
    if damage == "bits":
        content[60:90] = bytes(30)
    elif damage == "another array":
        np.savez(path, input_1=np.ones(2))
        content = bytearray(path.read_bytes())
    path.write_bytes({"cut": bytes(content[:-30]), "empty": b""}.get(damage, bytes(content)))
    with pytest.raises(ValueError, match=r"."):
        read_reference(path)
