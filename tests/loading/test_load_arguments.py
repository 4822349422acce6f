"""Models that take keywords, lists and dictionaries, and that return dataclasses."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from deployfold.config.inputs import InputSpec
from deployfold.errors import UsageError
from deployfold.loading import LoadedModel, make_inputs, resolve_inputs
from deployfold.loading.arguments import Adapted, with_arguments, with_plain_outputs

A, B = torch.full((1, 2), 3.0), torch.full((1, 2), 5.0)


class Options(nn.Module):
    def forward(self, image: Any, mask: Any, mode: str = "loss", *, scale: int) -> torch.Tensor:
        assert mode == "predict"
        return (image - 2 * mask) * scale


def test_fixed_arguments_are_no_inputs() -> None:
    net = loaded(Options())
    fixed = {"mode": "predict", "scale": 3}
    for texts in (["1x2", "1x2"], ["image=1x2", "mask=1x2"]):
        spec = InputSpec.parse(texts)
        adapted = with_arguments(net, spec, fixed)
        assert resolve_inputs(adapted, spec).names == ("image", "mask")
        torch.testing.assert_close(adapted.module(A, B), (A - 2 * B) * 3)
    with pytest.raises(UsageError, match="no input named 'sizes'"):
        with_arguments(net, None, {"sizes": 1})
    scripted = replace(loaded(torch.jit.script(nn.ReLU())), kind="torchscript")
    with pytest.raises(UsageError, match="compiled model cannot be fixed"):
        with_arguments(scripted, None, {"input": 1})


class KeywordOnly(nn.Module):
    def forward(self, image: torch.Tensor, *, mask: torch.Tensor) -> torch.Tensor:
        return image - 2 * mask


class AnyKeyword(nn.Module):
    def forward(self, image: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
        return image - 2 * more["mask"]


class AfterDefault(nn.Module):
    def forward(self, image: Any, scale: Any = None, mask: Any = None) -> torch.Tensor:
        assert scale is None
        return image - 2 * mask


class OneDict(nn.Module):
    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return batch["image"] - 2 * batch["mask"]


class Nested(nn.Module):
    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        return batch["image"]["left"] - 2 * batch["masks"][0]["all"]


class OneList(nn.Module):
    def forward(self, items: list[torch.Tensor]) -> torch.Tensor:
        return items[0] - 2 * items[1]


class AnyPosition(nn.Module):
    def forward(self, *items: torch.Tensor) -> torch.Tensor:
        return items[0] - 2 * items[1]


def loaded(module: nn.Module) -> LoadedModel:
    return LoadedModel(module.eval(), "module", "net", None, "net.pt")


@pytest.mark.parametrize(
    ("module", "texts"),
    [
        (KeywordOnly(), ["image=1x2", "mask=1x2"]),
        (AnyKeyword(), ["image=1x2", "mask=1x2"]),
        (AfterDefault(), ["image=1x2", "mask=1x2"]),
        (OneDict(), ["image=1x2", "mask=1x2"]),
        (OneDict(), ["batch.image=1x2", "batch.mask=1x2"]),
        (Nested(), ["batch.image.left=1x2", "batch.masks.0.all=1x2"]),
        (Nested(), ["image.left=1x2", "masks.0.all=1x2"]),
        (OneList(), ["1x2", "1x2"]),
        (OneList(), ["items.0=1x2", "items.1=1x2"]),
        (OneList(), ["image=1x2", "mask=1x2"]),
        (AnyPosition(), ["1x2", "1x2"]),
        (AnyPosition(), ["image=1x2", "mask=1x2"]),
    ],
    ids=str,
)
def test_inputs_reach_the_arguments_that_their_names_tell(
    module: nn.Module, texts: list[str]
) -> None:
    requested = InputSpec.parse(texts)
    adapted = with_arguments(loaded(module), requested)
    spec = resolve_inputs(adapted, requested)
    names = [text.partition("=")[0] for text in texts if "=" in text]
    assert list(spec.names) == (names or ["input_0", "input_1"])
    assert torch.equal(adapted.module(A, B), A - 2 * B)
    assert len(make_inputs(spec)) == 2


def test_names_keep_the_order_of_the_user_for_an_adapted_model() -> None:
    requested = InputSpec.parse(["mask=1x2", "image=1x2"])
    adapted = with_arguments(loaded(KeywordOnly()), requested)
    assert resolve_inputs(adapted, requested).names == ("mask", "image")
    assert torch.equal(adapted.module(B, A), A - 2 * B)


def test_a_plain_forward_is_not_adapted() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x - y

    model = loaded(Two())
    for texts in (["y=1x2", "x=1x2"], ["1x2", "1x2"], ["z=1x2", "x=1x2"]):
        assert with_arguments(model, InputSpec.parse(texts)) is model
    alone = loaded(Returns("plain"))
    for texts in (["1x2", "1x2"], ["a=1x2", "b=1x2"]):
        assert with_arguments(alone, InputSpec.parse(texts)) is alone
    assert resolve_inputs(model, InputSpec.parse(["1x2", "1x2"])).names == ("x", "y")


def test_items_of_a_list_are_numbered_from_0() -> None:
    with pytest.raises(UsageError, match="has the items 0, 2"):
        with_arguments(loaded(OneList()), InputSpec.parse(["items.0=1x2", "items.2=1x2"]))
    for texts in (["a=1x2", "a.b=1x2"], ["a.b=1x2", "a=1x2"], ["a=1x2", "a.b.c=1x2"]):
        with pytest.raises(UsageError, match="inside of the other"):
            with_arguments(loaded(Nested()), InputSpec.parse(texts))


@dataclass
class Output:
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...] | None = None
    loss: torch.Tensor | None = None


class Record(OrderedDict):  # type: ignore[type-arg]
    pass


class Named(NamedTuple):
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...]


class Returns(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> Any:
        if self.kind == "dataclass":
            return Output(x, (x + 1, x + 2))
        if self.kind == "mapping":
            return Record(logits=x, loss=None, hidden=(x + 1, x + 2))
        if self.kind == "named tuple":
            return Named(x, (x + 1, x + 2))
        if self.kind == "text":
            return (x, "softmax", {"a": x + 1, "b": "softmax"})
        return (x, {"a": x + 1})


def test_dataclasses_named_tuples_and_mappings_become_dictionaries() -> None:
    for kind in ("dataclass", "mapping", "named tuple"):
        adapted = with_plain_outputs(loaded(Returns(kind)), (A,))
        output = adapted.module(A)
        assert type(output) is dict
        assert list(output) == ["logits", "hidden"]
        assert torch.equal(output["hidden"][1], A + 2)
    spoken = with_plain_outputs(loaded(Returns("text")), (A,))
    _, text, items = spoken.module(A)
    assert (text, list(items)) == (None, ["a"])
    assert "text among the model's outputs is left out" in spoken.notes[-1]
    model = loaded(Returns("plain"))
    assert with_plain_outputs(model, (A,)) is model


def test_an_adapted_model_is_pickled_and_loaded_without_permission(tmp_path: Any) -> None:
    from deployfold.loading import load_model

    requested = InputSpec.parse(["input.0=1x3", "input.1=1x3"])
    adapted = with_arguments(loaded(nn.Sequential(nn.Linear(3, 2))), requested).module
    assert isinstance(adapted, Adapted)
    torch.save(adapted, tmp_path / "net.pt")
    again = load_model(str(tmp_path / "net.pt")).module
    assert isinstance(again, Adapted)
    assert again.positional == [[0, 1]]
