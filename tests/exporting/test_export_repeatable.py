"""A model whose second call gives other outputs cannot be exported."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import deployfold
from deployfold.errors import ExportError
from deployfold.exporting import check_repeatable

INPUTS = (torch.randn(2, 3, 8, 8),)


class Stateful(nn.Module):
    """Adds what the last call computed, as a streaming model does."""

    def __init__(self, buffer: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("unused", torch.zeros(1))
        if buffer:
            self.register_buffer("last", torch.zeros(2, 4, 6, 6))
        else:
            self.last = torch.zeros(2, 4, 6, 6)

    def forward(self, x: Tensor) -> Tensor:
        now = self.conv(x)
        before = self.last.clone()
        self.last.copy_(now)
        return now + before


class Harmless(nn.Module):
    """Counts its calls, fills a cache, and writes to its input: its outputs do not depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.cache: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        grid = self.cache.setdefault(x.shape[-1], torch.arange(float(x.shape[-1])))
        return x.mul_(2) + grid, self.calls * 0


class Counting(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * 2


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, training=True)


@pytest.mark.parametrize("form", ["eager", "scripted", "program"])
def test_state_is_refused_and_its_buffer_named(form: str) -> None:
    module: nn.Module = Stateful().eval()
    if form == "scripted":
        module = torch.jit.script(module)
    elif form == "program":
        module = torch.export.export(module, INPUTS).module()
    with pytest.raises(ExportError, match="keeps state in last from one call") as caught:
        check_repeatable(module, INPUTS)
    assert "an output of forward" in caught.value.hint
    assert ("often an ONNX" in caught.value.hint) == (form == "scripted")
    assert not module.last.any()  # a copy ran


def test_state_outside_of_buffers_is_refused_as_well() -> None:
    with pytest.raises(ExportError, match="keeps state from one call"):
        check_repeatable(Stateful(buffer=False).eval(), INPUTS)


def test_random_numbers_are_refused() -> None:
    with pytest.raises(ExportError, match="draws random numbers"):
        check_repeatable(Noisy().eval(), INPUTS)


def test_state_that_does_not_change_the_outputs_is_allowed() -> None:
    module = Harmless().eval()
    given = INPUTS[0].clone()
    outputs = check_repeatable(module, (given,))
    assert torch.equal(outputs[0], 2 * given + torch.arange(8.0)), "what exports compare with"
    assert torch.equal(given, INPUTS[0])
    assert not module.calls
    assert not module.cache


def test_a_module_that_cannot_be_copied_is_neither_run_nor_refused() -> None:
    module = Stateful().eval()
    module.lock = threading.Lock()
    check_repeatable(module, INPUTS)
    assert not module.last.any()


@pytest.mark.parametrize("form", ["eager", "scripted"])
def test_exporting_leaves_a_model_in_training_mode_as_it_is(form: str, tmp_path: Path) -> None:
    module: nn.Module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    if form == "scripted":
        module = torch.jit.script(module)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    files = deployfold.export(module, INPUTS, tmp_path, formats=("torchscript",))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(item.training for item in module.modules())
    assert "evaluation mode was exported" in files["torchscript"].notes[0]
    loaded = torch.jit.load(str(files["torchscript"].path))
    torch.testing.assert_close(loaded(*INPUTS), module.eval()(*INPUTS))


def test_exporting_leaves_what_the_forward_writes_as_it_is(tmp_path: Path) -> None:
    module = Counting().eval()
    deployfold.export(module, INPUTS, tmp_path, formats=("torchscript",))
    assert float(module.calls) == 0
