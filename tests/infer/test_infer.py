"""One inference of every kind of artifact, in this process; tests/cli runs the command."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from deployfold.errors import DeployfoldError, LoadError, MeasureError, UsageError
from deployfold.infer.artifact import run_artifact
from deployfold.infer.inputs import parse_given
from deployfold.infer.outputs import RunRecord, describe, save_outputs
from deployfold.runtimes import RunSettings


def ran(path: Path, *texts: str, **options: Any) -> RunRecord:
    seed = options.pop("seed", 0)
    given = parse_given(texts)
    record, arrays = run_artifact(path, given, settings=RunSettings(**options), seed=seed)
    assert [one.name for one in record.outputs] == list(arrays)
    return record


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ONNX of two inputs, a - 2 b, and its square root; the same as TorchScript and .pt2."""
    nodes = [
        helper.make_node("Mul", ["b", "two"], ["c"]),
        helper.make_node("Sub", ["a", "c"], ["difference"]),
        helper.make_node("Sqrt", ["difference"], ["root"]),
    ]
    outputs = ("difference", "root")
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "ab"],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in outputs],
        [helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "two.onnx")

    class Two(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return a - 2 * b, torch.sqrt(a - 2 * b)

    net, example = Two().eval(), (torch.ones(2), torch.ones(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net, example), tmp_path / "two.ts.pt")
    torch.export.save(torch.export.export(net, example), tmp_path / "two.pt2")
    np.save(tmp_path / "a.npy", np.array([1.0, 9.0], np.float32))
    np.save(tmp_path / "b.npy", np.array([1.0, 0.0], np.float64))
    np.savez(tmp_path / "ab.npz", b=np.float32([1.0, 0.0]), a=np.float32([1.0, 9.0]))
    np.save(tmp_path / "evil.npy", np.array([print], dtype=object), allow_pickle=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("artifact", ["two.onnx", "two.ts.pt", "two.pt2"])
@pytest.mark.parametrize("texts", [("b=b.npy", "a=a.npy"), ("ab.npz",)])
def test_several_inputs_go_where_their_names_say(
    two: Path, artifact: str, texts: tuple[str, ...]
) -> None:
    found = ran(two / artifact, *texts)
    first, second = found.outputs
    arrays = run_artifact(two / artifact, parse_given(texts))[1]
    np.testing.assert_array_equal(next(iter(arrays.values())), [-1.0, 9.0])
    assert (first.minimum, first.maximum, first.mean) == (-1.0, 9.0, 4.0)
    assert (second.minimum, second.nonfinite) == (3.0, 1)
    assert {one.data for one in found.inputs} == (
        {"ab.npz"} if texts == ("ab.npz",) else {"a.npy", "b.npy"}
    )


def test_inputs_without_names_take_the_places_that_are_left(two: Path) -> None:
    found = ran(two / "two.ts.pt", "b=b.npy", "a.npy")
    assert tuple(one.data for one in found.inputs) == ("a.npy", "b.npy")
    assert found.outputs[0].maximum == 9.0


def test_an_onnx_has_names_of_its_own_and_what_is_not_given_is_random(two: Path) -> None:
    found = ran(two / "two.onnx", "a=a.npy", "b=2")
    assert [one.name for one in found.outputs] == ["difference", "root"]
    assert tuple(one.data for one in found.inputs) == ("a.npy", "seeded random (seed 0)")
    other = ran(two / "two.onnx", "a=a.npy", "b=2", seed=1)
    same = ran(two / "two.onnx", "a=a.npy", "b=2")
    assert found.outputs[0] == same.outputs[0] != other.outputs[0]


def test_everything_can_be_random(two: Path) -> None:
    found = ran(two / "two.onnx")
    assert tuple(one.data for one in found.inputs) == ("seeded random (seed 0)",) * 2
    assert [tensor.shape for tensor in found.inputs] == [(1,), (1,)]


def test_values_get_the_precision_of_the_model(tmp_path: Path) -> None:
    net = torch.jit.trace(torch.nn.Linear(3, 4).half().eval(), torch.ones(1, 3).half())
    torch.jit.save(net, tmp_path / "half.ts.pt")
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    (output,) = ran(tmp_path / "half.ts.pt", str(tmp_path / "x.npy")).outputs
    assert (output.shape, output.dtype) == ((2, 4), "float16")


@pytest.mark.parametrize(
    ("artifact", "texts", "kind", "expected"),
    [
        ("gone.onnx", (), UsageError, "There is no file"),
        ("two.onnx", ("gone.npy",), UsageError, "Cannot read gone.npy"),
        ("two.onnx", ("evil.npy",), UsageError, "holds pickled Python objects"),
        ("two.onnx", ("c=a.npy",), UsageError, "two.onnx has no input named 'c'"),
        ("two.onnx", ("a.npy",), UsageError, "several inputs, so each needs a name"),
        ("two.onnx", ("a=a.npy", "a=b.npy"), UsageError, "'a' is given twice"),
        ("two.onnx", ("x=ab.npz",), UsageError, "has named arrays"),
        ("two.onnx", ("a=hello",), UsageError, "is not an input shape"),
        ("two.onnx", ("a=3", "b=4"), MeasureError, "two.onnx failed"),
        ("two.ts.pt", ("a=3", "b=4"), MeasureError, "failed"),
        ("a.npy", (), LoadError, "is a numpy array"),
    ],
)
def test_the_error_names_what_is_wrong_with_the_inputs(
    two: Path, artifact: str, texts: tuple[str, ...], kind: type[DeployfoldError], expected: str
) -> None:
    with pytest.raises(kind) as caught:
        ran(two / artifact, *texts)
    assert expected in caught.value.message
    if kind is MeasureError:
        assert caught.value.hint == "The inputs were a=3, b=4."


@pytest.mark.parametrize("given", ["1x4", "3", "2x3x1"])
def test_a_shape_that_an_onnx_does_not_take_is_an_error_that_names_the_right_one(
    tmp_path: Path, given: str
) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "net", values[:1], values[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(UsageError) as caught:
        ran(tmp_path / "net.onnx", given)
    expected = f"net.onnx takes 'x' of shape ?x3, but {given} was given."
    assert (caught.value.message, caught.value.hint) == (expected, "? stands for any size.")
    assert ran(tmp_path / "net.onnx", "5x3").outputs[0].shape == (5, 3)


def test_a_wrong_shape_in_torchscript_is_an_error_that_names_the_cause(tmp_path: Path) -> None:
    net = torch.jit.trace(torch.nn.Linear(3, 4).eval(), torch.ones(1, 3))
    torch.jit.save(net, tmp_path / "net.ts.pt")
    with pytest.raises(MeasureError, match=r"net\.ts\.pt failed: RuntimeError: mat1 and mat2"):
        ran(tmp_path / "net.ts.pt", "1x5")


@pytest.mark.parametrize(
    ("artifact", "provider", "expected"),
    [
        ("two.onnx", "abacus", "has no provider 'abacus'"),
        ("two.ts.pt", "cpu", "--provider has no effect"),
    ],
)
def test_a_provider_is_one_of_those_that_are_there(
    two: Path, artifact: str, provider: str, expected: str
) -> None:
    with pytest.raises(UsageError, match=expected) as caught:
        ran(two / artifact, provider=provider)
    assert artifact != "two.onnx" or "CPU" in str(caught.value.hint)
    assert ran(two / "two.onnx", provider="CPU").runtime == "ONNX Runtime (CPUExecutionProvider)"
    assert ran(two / "two.onnx", provider="CPUExecutionProvider").outputs


def test_the_first_classes_are_of_a_single_output_of_two_axes() -> None:
    values = np.array([[0.0, 3.0, 3.0, -1.0, np.nan, 2.0, 1.0]], np.float32)
    (top,) = describe("y", values, alone=True).top
    assert [index for index, _ in top] == [1, 2, 5, 6, 0]
    assert describe("y", values, alone=False).top == ()
    assert describe("y", values[0], alone=True).top == ()
    assert describe("y", np.arange(6).reshape(2, 3), alone=True).top == ()
    empty = describe("y", np.zeros((0, 3), np.float32), alone=True)
    assert (empty.minimum, empty.top) == (None, ())


def test_json_has_no_infinity(two: Path) -> None:
    found = ran(two / "two.onnx", "ab.npz")
    output = describe("y", np.array([[np.inf, 1.0]], np.float32), alone=True)
    text = found.model_copy(update={"outputs": (output,)}).to_json()
    found_again = json.loads(text, parse_constant=pytest.fail)
    assert found_again["outputs"][0]["top"] == [[[0, "Infinity"], [1, 1.0]]]


def test_outputs_are_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    one, two = {"y": np.ones(3)}, {"y": np.ones(3), "z/w": np.zeros((2, 2))}
    save_outputs(tmp_path / "one.npy", one)
    np.testing.assert_array_equal(np.load(tmp_path / "one.npy"), one["y"])
    save_outputs(tmp_path / "two.npz", two)
    with np.load(tmp_path / "two.npz") as saved:
        assert saved.files == ["y", "z/w"]
    for name, arrays in (("two.npy", two), ("one.txt", one)):
        with pytest.raises(UsageError):
            save_outputs(tmp_path / name, arrays)
    assert {path.name for path in tmp_path.iterdir()} == {"one.npy", "two.npz"}
