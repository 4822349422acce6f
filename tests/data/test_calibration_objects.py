from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from calibration_toys import ONE, TWO, expected, load, refusal, rows, samples

MODULE = """
import numpy, torch
NUMBER = 7
def endless():
    buffer = numpy.zeros((2, 3), "float32")
    while True:
        buffer += 1
        yield buffer
def batches():
    values = torch.arange(60.0).reshape(10, 2, 3)
    return torch.utils.data.DataLoader(values, batch_size=4)
def stacked():
    return torch.arange(60.0).reshape(10, 2, 3)
def named():
    for i in range(5):
        yield {"mask": torch.full((1, 4), i, dtype=torch.bfloat16), "ids": numpy.full((4,), i)}
def pairs():
    return [(torch.full((4,), i), torch.ones(4)) for i in range(5)]
def labelled():
    yield torch.zeros(2, 3), 1
def late():
    yield torch.zeros(2, 3)
    raise OSError("the disk\\nwent away")
def leaves():
    raise SystemExit("bye")
def number():
    return 3
def wants(path):
    return path
def few():
    yield torch.zeros(2, 3)
def wide():
    yield torch.zeros(2, 4)
def words():
    yield "dear diary"
"""


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(60.0).reshape(10, 2, 3),
        torch.arange(60.0).reshape(10, 2, 3).to(torch.bfloat16),
        list(torch.arange(60.0).reshape(10, 2, 3)),
        tuple(torch.arange(60.0, dtype=torch.float64).reshape(10, 1, 2, 3)),
        [(item,) for item in torch.arange(60.0).reshape(10, 2, 3)],
        [{"x": item} for item in torch.arange(60.0).reshape(10, 2, 3)],
        torch.arange(60.0).reshape(10, 2, 3).split(4),
        {"whatever": torch.arange(60.0).reshape(10, 2, 3)},
        torch.nn.Parameter(torch.arange(60.0).reshape(10, 2, 3)),
    ],
    ids=["tensor", "bf16", "list", "tuple", "tuples", "dicts", "batches", "dict", "parameter"],
)
def test_saved_tensors(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "a.pt")
    assert rows(load(tmp_path / "a.pt", ONE)) == expected(samples())


@pytest.mark.parametrize("form", ["dict", "list", "tuples", "dicts"])
def test_saved_tensors_for_several_inputs(tmp_path: Path, form: str) -> None:
    ids = torch.arange(24).reshape(6, 4)
    value = {
        "dict": {"mask": ids / 2, "ids": ids},
        "list": [ids, ids / 2],
        "tuples": [(row, row / 2) for row in ids],
        "dicts": [{"mask": row / 2, "ids": row} for row in ids],
    }[form]
    torch.save(value, tmp_path / "a.pt")
    data = load(tmp_path / "a.pt", TWO)
    assert rows(data, "ids") == expected(ids.numpy())
    assert all(np.array_equal(feed["ids"], feed["mask"] * 2) for feed in data.calibration)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('ran', 'w').close()",)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Evil(), "could run code"),
        ([Evil()], "could run code"),
        ({"state": {"a": 1}, "epoch": 3}, "holds state, epoch, but the model's only input is x."),
        ("dear diary", "holds a str, not tensors."),
        ([1, 2, 3], "Item 0 of "),
        (torch.nn.Linear(2, 2), "holds a Linear, not tensors."),
        (torch.zeros(4, 3), "has the shape 4x3, but must have samplesx2x3."),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], "has the shape 2x4, but the input 'x' takes 2x3"),
        ([(torch.zeros(2, 3), 1)], "holds 2 values, but the model has 1 input."),
        (torch.full((3, 2, 3), float("nan")), "Sample "),
        (torch.zeros(3, 2, 3).to_sparse(), "sparse, quantised or on the meta device"),
        ([], "There are no usable samples among 0 samples of a.pt"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_files_of_torch_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(value, "a.pt")
    assert words in refusal("a.pt", ONE)
    assert not Path("ran").exists()


def test_a_bare_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.pt").write_bytes(pickle.dumps(Evil()))
    assert refusal("a.pt", ONE).startswith("a.pt cannot be read: ")
    assert not Path("ran").exists()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory, under a name of its own."""
    name = f"calibration_feed_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return name


def test_functions_that_yield(module: str) -> None:
    data = load(f"{module}:endless", ONE, samples=6)
    assert rows(data) == [[float(i)] * 6 for i in range(1, 7)]  # one buffer, six values
    assert data.origin == f"4 of 6 samples from {module}:endless, 2 others held back"
    assert rows(load(f"{module}:batches", ONE)) == expected(samples())
    assert rows(load(f"{module}:batches", ONE, samples=5)) == expected(samples(5))


def test_functions_that_return(module: str) -> None:
    assert rows(load(f"{module}:stacked", ONE)) == expected(samples())
    assert load(f"{module}:stacked", ONE, samples=4).origin.startswith("3 of 10 samples")


@pytest.mark.parametrize("name", ["named", "pairs"])
def test_functions_for_several_inputs(module: str, name: str) -> None:
    data = load(f"{module}:{name}", TWO)
    assert rows(data, "ids") == [[i] * 4 for i in range(5)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "has no missing."),
        ("NUMBER", "is not a function."),
        ("number", "returned a int."),
        ("wants", "raised TypeError: "),
        ("late", "raised OSError: the disk went away."),
        ("leaves", "raised SystemExit: bye."),
        ("few", "There is one usable sample among 1 samples from"),
        ("labelled", "holds 2 values, but the model has 1 input."),
        ("wide", "has the shape 2x4, but the input 'x' takes 2x3, or a batch of that."),
        ("words", "holds a str, not a tensor or array."),
    ],
)
def test_functions_that_fail(module: str, name: str, words: str) -> None:
    assert words in refusal(f"{module}:{name}", ONE)


def test_a_module_that_is_not_there() -> None:
    assert "cannot be imported" in refusal("no_such_package_here:feed", ONE)
