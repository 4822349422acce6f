from __future__ import annotations

import io

import pytest

from deployfold.errors import first_few, first_line, interrupted, one_line


def test_the_first_few_names_and_how_many_more() -> None:
    names = ["a", "b", "c", "d", "e"]
    assert first_few(names[:1]) == "a"
    assert first_few(names[:3]) == "a, b, c"
    assert first_few(names) == "a, b, c and 2 more"
    assert first_few(names, 4) == "a, b, c, d and 1 more"


def test_the_first_line_is_that_of_the_cause() -> None:
    error = RuntimeError("tracing failed")
    error.__cause__ = ValueError("\n  shapes differ \n  and more")
    assert first_line(error) == "shapes differ"
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError("x" * 400)) == "x" * 299 + "…"


def test_the_last_line_is_the_reason_of_torchscript() -> None:
    import torch

    def index(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(7)

    scripted = torch.jit.script(index)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError) as caught:
        scripted(torch.zeros(2))
    assert first_line(caught.value) == "RuntimeError: shape '[7]' is invalid for input of size 2"


def test_an_interrupt_within_torch_save_is_one() -> None:
    import torch

    class Stopped(io.BytesIO):
        def write(self, data: bytes) -> int:  # type: ignore[override]
            if self.tell() > 100_000:
                raise KeyboardInterrupt
            return super().write(data)

    with pytest.raises(RuntimeError, match="unexpected pos") as caught:
        torch.save({"w": torch.zeros(100_000)}, Stopped())
    assert interrupted(caught.value)
    assert not interrupted(ValueError("no interrupt"))


def test_one_line_keeps_the_whole_message() -> None:
    assert one_line(ValueError(" first,\n\tsecond. ")) == "first, second"
    assert one_line(ValueError("...")) == "ValueError"
    assert one_line(ValueError("ab " * 200), 5) == "ab a…"
