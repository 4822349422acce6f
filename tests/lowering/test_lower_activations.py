from __future__ import annotations

from pathlib import Path

import lower_toys as toys
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lower_toys import node

from deployfold.errors import ExportError
from deployfold.exporting.session import run_session
from deployfold.exporting.storage import EXTERNAL_DATA_BYTES
from deployfold.lowering.activations import iterate_activations, observe, scratch_session
from deployfold.util.onnx_files import data_path

NODES = [node("Mul", "x two", "a"), node("Exp", "a", "b"), node("Add", "b two", "y")]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return toys.write_graph(tmp_path / "m.onnx", NODES, weights={"two": np.full(4, 2, np.float32)})


def collect(source: Path, *arrays: np.ndarray, **options: object) -> dict[tuple[str, int], object]:
    feeds = [{"x": array} for array in arrays]
    return {(a.name, a.feed): a.array for a in iterate_activations(source, feeds, **options)}


@pytest.mark.parametrize("budget", [1, 512 * 2**20])
def test_every_tensor_of_every_run(source: Path, budget: int) -> None:
    first, second = toys.normal((2, 4)), toys.normal((3, 4), seed=1)
    found = collect(source, first, second, budget=budget)
    assert set(found) == {(name, feed) for name in "aby" for feed in (0, 1)}
    for feed, x in enumerate((first, second)):
        np.testing.assert_allclose(found["a", feed], 2 * x)
        np.testing.assert_allclose(found["b", feed], np.exp(2 * x), rtol=1e-6)


def test_some_tensors(source: Path) -> None:
    assert set(collect(source, toys.normal((1, 4)), names=["b"])) == {("b", 0)}


def test_external_data_is_found(source: Path) -> None:
    onnx.save_model(
        onnx.load(str(source)),
        str(source),
        save_as_external_data=True,
        location=data_path(source).name,
        size_threshold=0,
    )
    before = sorted(source.parent.iterdir())
    x = toys.normal((1, 4))
    np.testing.assert_allclose(collect(source, x)["a", 0], 2 * x)
    assert sorted(source.parent.iterdir()) == before


def test_a_model_that_does_not_run_is_a_clear_error(source: Path) -> None:
    with pytest.raises(ExportError, match="cannot run"):
        collect(source, toys.normal((1, 5)))


def test_large_weights_go_beside_the_graph(source: Path) -> None:
    """protobuf serialises no more than 2 GiB; INT8 ended in an uncaught EncodeError there."""
    model = onnx.load(source)
    x = toys.normal((2, 4))
    found = []
    for weights in (0, EXTERNAL_DATA_BYTES + 1):
        with scratch_session(model, weights) as session:
            found.append(run_session(session, {"x": x})[0])
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0], np.exp(2 * x) + 2, rtol=1e-6)


def test_a_model_in_memory_is_observed_without_being_serialised(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    save = ir.save

    def record(model: ir.Model, path: Path, external_data: str | None = None) -> None:
        written.append(external_data)
        save(model, path, external_data=external_data)

    monkeypatch.setattr(ir, "save", record)
    x = toys.normal((2, 4))
    ((name, array),) = observe(ir.load(source), ["a"], [{"x": x}])
    assert name == "a"
    np.testing.assert_allclose(array, 2 * x)
    assert written == ["model.onnx.data"], "weights beside the graph, whatever their size"
