from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from deployfold.errors import ExportError
from deployfold.exporting.outputs import Reference, check_outputs, flatten_outputs, is_flat

A, B, C = (torch.full((2,), float(value)) for value in range(3))


class Pair(NamedTuple):
    boxes: torch.Tensor
    scores: torch.Tensor


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (A, ("output",)),
        ((A,), ("output_0",)),
        ([A, None, B], ("output_0", "output_2")),
        ((A, [B, C]), ("output_0", "output_1_0", "output_1_1")),
        ({"out": A, "aux": B, "count": 3}, ("out", "aux")),
        ({"feat": [A, B], "a b/c": C}, ("feat_0", "feat_1", "a_b_c")),
        ({"a_0": A, "a": [B]}, ("a_0", "a_0_2")),
        (Pair(A, B), ("boxes", "scores")),
    ],
)
def test_outputs_are_flattened_with_names(outputs: object, names: tuple[str, ...]) -> None:
    tensors, found = flatten_outputs(outputs)
    assert found == names
    assert len(tensors) == len(names)


def test_the_order_of_a_dict_is_kept() -> None:
    tensors, _ = flatten_outputs({"z": A, "a": B})
    assert tensors[0] is A
    assert tensors[1] is B


@pytest.mark.parametrize("outputs", [None, {"a": 1}, [], object()])
def test_outputs_without_tensors_are_refused(outputs: object) -> None:
    with pytest.raises(ExportError):
        flatten_outputs(outputs)


def test_flat_outputs_are_recognised() -> None:
    assert is_flat(A)
    assert is_flat((A, B))
    assert not is_flat({"a": A})
    assert not is_flat((A, [B]))
    assert not is_flat((A, None))


def test_rounding_passes_and_gives_the_difference() -> None:
    reference = torch.tensor([100.0, 1.0])
    difference = check_outputs([reference], [reference + torch.tensor([0.01, 0])], what="It")
    assert difference == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    "test",
    [
        torch.tensor([100.0, 2.0]),
        torch.tensor([100.0, float("nan")]),
        torch.tensor([[100.0, 1.0]]),
    ],
)
def test_another_function_is_an_error(test: torch.Tensor) -> None:
    with pytest.raises(ExportError, match=r"[oO]utput 0"):
        check_outputs([torch.tensor([100.0, 1.0])], [test], what="It")


def test_nan_where_the_original_has_nan_is_equal() -> None:
    values = torch.tensor([float("nan"), float("inf"), 1.0])
    assert check_outputs([values], [values.clone()], what="It") == 0.0


def test_a_missing_output_is_an_error() -> None:
    with pytest.raises(ExportError, match="1 outputs, but the original 2"):
        check_outputs([A, B], [A], what="It")


def test_integer_outputs_may_flip_in_few_places_only() -> None:
    classes = torch.arange(1000)
    flipped = classes.clone()
    flipped[3] = 7
    check_outputs([classes], [flipped], what="It")
    with pytest.raises(ExportError):
        check_outputs([classes], [classes + 1], what="It")


def test_a_reference_runs_each_input_once() -> None:
    class Counted(torch.nn.Module):
        runs = 0

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            self.runs += 1
            return {"y": x * self.runs}

    reference = Reference(module := Counted())
    one, two = torch.ones(2), torch.ones(2, dtype=torch.float64)
    assert torch.equal(reference.flat((one,))[0], one)
    assert reference.nested((one.clone(),)) is reference.nested((one,))
    assert torch.equal(reference.flat((two,))[0], 2 * two)  # equal values of another dtype
    assert torch.equal(reference.flat((one,))[0], one)
    assert module.runs == 2
