"""Folding into stored matrices and embeddings, which are not modules, and reading stored numbers to
know the operators between a layer and its BatchNorm.
"""

from __future__ import annotations

import pytest
import torch
from fold_nets import folded, randomise, reason
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_examples import examples
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Product(nn.Module):
    """``x`` times a stored matrix, written in one of several ways, between two norms."""

    def __init__(self, way: str, width: tuple[int, int], *, before: bool, after: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))
        self.bias = nn.Parameter(torch.randn(width[1]))
        self.before = nn.BatchNorm1d(width[0]) if before else nn.Identity()
        self.after = nn.BatchNorm1d(width[1]) if after else nn.Identity()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        x = self.before(x)
        if self.way == "operator":
            x = x @ self.weight
        elif self.way == "method":
            x = x.matmul(self.weight)
        elif self.way == "mm":
            x = torch.mm(x, self.weight)
        elif self.way == "einsum":
            x = torch.einsum("ni,io->no", x, self.weight)
        elif self.way == "weight first":
            x = torch.einsum("io, ...i", self.weight, x)
        elif self.way == "added":
            x = x @ self.weight + self.bias
        else:
            x = torch.addmm(self.bias, x, self.weight)
        return F.relu(self.after(x))


@settings(max_examples=examples(30))
@given(
    way=st.sampled_from(["operator", "method", "mm", "added", "addmm", "einsum", "weight first"]),
    width=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    before=st.booleans(),
    after=st.booleans(),
)
def test_product_with_a_stored_matrix(way, width, before, after):
    model = randomise(Product(way, width, before=before, after=after))
    folded(model, torch.randn(3, width[0]), gone=before + after)


class Einsum(nn.Module):
    """A convolution, an einsum with a stored factor, a norm and a convolution."""

    def __init__(self, equation: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.equation = equation
        self.conv = nn.Conv2d(3, 4, 3)
        self.weight = nn.Parameter(torch.rand(shape) + 0.5)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(torch.einsum(self.equation, self.conv(x), self.weight)).relu())


@pytest.mark.parametrize(
    ("equation", "shape", "gone"),
    [
        ("nchw,dc->ndhw", (4, 4), 1),  # a 1x1 convolution
        ("nchw,cd->ndhw", (4, 4), 1),
        ("nc...,dc->nd...", (4, 4), 1),
        ("nchw,dcijklmpq->ndhw", (4, 4, *[1] * 7), 1),
        ("nchw,c->nchw", (4,), 1),  # a factor for each channel
        ("nchw,wc->nchw", (6, 4), 0),  # a factor for each channel and column: one shift is none
        ("nchw,wv->nchv", (6, 6), 0),  # a layer over columns, not channels
    ],
)
def test_einsum_with_a_stored_factor(equation, shape, gone):
    model = randomise(Einsum(equation, shape))
    folded(model, torch.randn(2, 3, 8, 8), gone=gone, left=1 - gone)


def test_attention_written_as_einsums_carries_a_norm():
    class Attention(nn.Module):
        def __init__(self, equation: str) -> None:
            super().__init__()
            self.equation = equation
            self.values, self.last = nn.Linear(6, 6), nn.Linear(6, 2)
            self.norm = nn.BatchNorm1d(6)

        def forward(self, x: Tensor) -> Tensor:
            heads = x.unflatten(-1, (2, 3))
            weights = torch.einsum("nqhd,nkhd->nhqk", heads, heads).softmax(-1)
            values = self.values(x).unflatten(-1, (2, 3))
            x = torch.einsum(self.equation, weights, values).flatten(2)
            return self.last(self.norm(x.transpose(1, 2)).transpose(1, 2).relu())

    model = randomise(Attention("nhqk,nkhd->nqhd"))
    assert folded(model, torch.randn(2, 5, 6), gone=1).folded[0].into == ("values",)
    wrong_axis = randomise(Attention("nhkq,nkhd->nqhd"))  # these weights do not add up to one
    folded(wrong_axis, torch.randn(2, 5, 6), gone=0, left=1)


@pytest.mark.parametrize(
    "subtract", [lambda y, w: y - w, lambda y, w: w - y, lambda y, w: torch.sub(y, w, alpha=3)]
)
def test_a_stored_tensor_may_be_subtracted_between_layer_and_norm(subtract):
    class Subtracts(Product):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.after(subtract(x @ self.weight, self.bias)))

    model = randomise(Subtracts("", (3, 4), before=False, after=True))
    folded(model, torch.randn(5, 3), gone=1)


@pytest.mark.parametrize("way", ["mm", "einsum", "operator"])
def test_a_product_that_runs_twice_in_a_forward_gets_its_bias_twice(way):
    class Twice(Product):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + super().forward(2 * x)

    model = randomise(Twice(way, (3, 4), before=False, after=True))
    result = folded(model, torch.randn(5, 3), gone=1)
    (bias,) = [one for name, one in result.model.named_parameters() if "folded_bias" in name]
    assert bias.shape == (4,)


def test_layers_side_by_side_by_hstack():
    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, 2), nn.Linear(4, 3)
            self.norm = nn.BatchNorm1d(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(torch.hstack([self.left(x), self.right(x)]))

    folded(randomise(Stacked()), torch.randn(3, 4), gone=1)


def test_a_forward_that_fx_cannot_trace_gets_no_bias():
    """The reason is that, and not what the verification would find."""

    class Branching(Product):
        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 1e9:
                x = -x
            return F.relu(self.after(x @ self.weight))

    model = randomise(Branching("", (3, 4), before=False, after=True))
    result = folded(model, torch.randn(2, 3), gone=0, left=1)
    assert "has no bias" in reason(result)
    assert "torch.fx cannot trace that" in reason(result)


@pytest.mark.parametrize("padding", [None, 0])
def test_embedding_holds_the_shift_in_its_rows(padding):
    model = nn.Sequential(nn.Embedding(7, 5, padding_idx=padding), nn.BatchNorm1d(4))
    model = randomise(model)  # over the four words of each sequence, and so not foldable
    folded(model, torch.randint(0, 7, (3, 4)), gone=0, left=1)
    model = randomise(nn.Sequential(nn.Embedding(7, 5, padding_idx=padding), nn.BatchNorm1d(5)))
    result = folded(model, torch.tensor([0, 1, 6]), gone=1)
    assert type(result.model[0]) is nn.Embedding


def test_embedding_that_is_also_an_output_layer_is_left():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(7, 5)
            self.norm = nn.BatchNorm1d(5)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.relu(self.norm(self.words(x))), self.words.weight)

    result = folded(randomise(Tied()), torch.tensor([0, 1, 6]), gone=0, left=1)
    assert "words.weight is also used by" in reason(result)


class Between(nn.Module):
    """A convolution, something with stored numbers, and a norm."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.register_buffer("order", torch.randperm(6))
        self.register_buffer("divisor", torch.tensor(3.0))
        self.register_buffer(
            "factors", torch.tensor([1.0, -2.0, 3.0, 0.5, 4.0, -0.1])[:, None, None]
        )
        self.gain = nn.Parameter(torch.randn(6, 1, 1))
        self.mix = nn.Parameter(torch.randn(2))
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        share = self.mix.softmax(0)
        x = {
            "index": lambda: x[:, self.order],
            "index_select": lambda: x.index_select(1, self.order),
            "twice": lambda: x[:, self.order[[0, 0, 1, 2, 3, 4]]],
            "divisor": lambda: x / self.divisor,
            "factors": lambda: self.factors * x,
            "summand": lambda: x + torch.ones(1) / 3,
            "gain": lambda: x * self.gain.sigmoid(),
            "mix": lambda: share[0] * x + share[1] * x.flip(1),
            "zero": lambda: x * (self.factors > 0),
            "noise": lambda: x * torch.rand(6, 1, 1),
        }[self.what]()
        return self.norm(x).relu()


@pytest.mark.parametrize("what", ["index", "index_select", "divisor", "factors", "gain", "summand"])
def test_stored_numbers_between(what):
    folded(randomise(Between(what)), torch.randn(2, 3, 6, 6), gone=1)


@pytest.mark.parametrize("what", ["twice", "zero"])
def test_stored_numbers_between_that_leave_no_way(what):
    folded(randomise(Between(what)), torch.randn(2, 3, 6, 6), gone=0, left=1)


def test_random_numbers_are_no_constant():
    torch.manual_seed(0)
    model = randomise(Between("noise"))
    from deployfold.folding import fold

    (left,) = fold(model, (torch.randn(2, 3, 6, 6),)).left
    assert "the factor is not stored in the model" in left.reason


class Heads(nn.Module):
    """Products with stored tensors of three axes, or of two on the left, around a norm."""

    def __init__(self, shape: tuple[int, ...], product, shaped, norm: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))
        self.norm = nn.BatchNorm1d(norm)
        self.product, self.shaped = product, shaped

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.shaped, int):  # the norm comes first
            x = self.norm(torch.sigmoid(x)).unflatten(1, (self.shaped, -1))
            return self.product(x, self.weight)
        return self.norm(self.product(self.shaped(x), self.weight).flatten(1, -2))


PRODUCTS = {
    "a matrix on the left": ((7, 6), lambda x, w: w @ x, lambda x: x, 7),
    "a matrix for each head": ((2, 4, 6), lambda x, w: w @ x.unsqueeze(1), lambda x: x, 8),
    "heads behind": (
        (6, 2, 4), lambda x, w: torch.einsum("bcl,chd->bhdl", x, w), lambda x: x, 8,
    ),
    "heads before": (
        (2, 6, 4), lambda x, w: torch.einsum("bcl,hcd->bhdl", x, w), lambda x: x, 8,
    ),
    "another order of heads": (
        (6, 2, 4), lambda x, w: torch.einsum("bcl,chd->bdhl", x, w), lambda x: x, 8,
    ),
    "groups": (
        (2, 3, 4), lambda x, w: torch.einsum("bgil,gio->bgol", x, w),
        lambda x: x.unflatten(1, (2, 3)), 8,
    ),
    "a turned batch": (
        (5, 4, 6), lambda x, w: torch.bmm(x, w.transpose(1, 2)).permute(1, 0, 2).unsqueeze(2),
        lambda x: x.permute(2, 0, 1), 5,
    ),
    "sums over heads": ((2, 3, 7), lambda x, w: torch.einsum("bhdl,hdo->blo", x, w), 2, 6),
    "groups behind the norm": ((2, 3, 4), lambda x, w: torch.einsum("bgil,gio->bgol", x, w), 2, 6),
}  # fmt: skip


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_product_with_a_stored_tensor_is_a_layer(product):
    folded(randomise(Heads(*PRODUCTS[product])), torch.randn(4, 6, 5), gone=1)


class Added(nn.Module):
    """A product with ``weight`` to which the operator adds a tensor, between two norms."""

    def __init__(self, product, weight: tuple[int, ...], bias: tuple[int, ...]) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(weight)), nn.Parameter(torch.randn(bias))
        self.product, self.skip = product, nn.Linear(4, 6)
        self.before, self.after = nn.BatchNorm1d(4), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(torch.tanh(x))
        return torch.tanh(self.after(self.product(self, x, self.weight, self.bias)))


SUMS = {
    "weighted": (lambda m, x, w, b: torch.addmm(b, x, w, beta=0.5, alpha=3), (4, 6), (6,)),
    "beta of 0": (lambda m, x, w, b: torch.addmm(b, x, w, beta=0, alpha=2), (4, 6), (6,)),
    "a row": (lambda m, x, w, b: torch.addmm(b, x, w), (4, 6), (1, 6)),
    "one number": (lambda m, x, w, b: torch.addmm(b, x, w, beta=2), (4, 6), (1,)),
    "a computed bias": (lambda m, x, w, b: torch.addmm(b.exp(), x, w, beta=2), (4, 6), (6,)),
    "of linear": (lambda m, x, w, b: F.linear(x, w, 2 * b), (6, 4), (6,)),
    "of a convolution": (
        lambda m, x, w, b: F.conv1d(x[..., None], w, b.exp())[..., 0], (6, 4, 1), (6,),
    ),
    "another layer": (lambda m, x, w, b: torch.addmm(m.skip(x), x, w, beta=0.5), (4, 6), ()),
    "turned": (lambda m, x, w, b: torch.addmm(b, x, w.t(), alpha=2), (6, 4), (6,)),
    "on the left": (lambda m, x, w, b: torch.addmm(b, w, x.t(), beta=2).t(), (6, 4), (6, 1)),
    "expanded": (
        lambda m, x, w, b: torch.baddbmm(b, w.expand(len(x), -1, -1), x[..., None], beta=2)[..., 0],
        (6, 4), (6, 1),
    ),
    "for each head": (
        lambda m, x, w, b: torch.baddbmm(b, x.view(-1, 2, 2).transpose(0, 1), w, alpha=2)
        .transpose(0, 1).flatten(1),
        (2, 2, 3), (2, 1, 3),
    ),
    "summed": (
        lambda m, x, w, b: torch.addbmm(b, x.view(-1, 2, 2).transpose(0, 1), w, beta=0.5),
        (2, 2, 6), (6,),
    ),
    "a vector": (
        lambda m, x, w, b: torch.stack([torch.addmv(b, w, row, alpha=2) for row in x.unbind()]),
        (6, 4), (6,),
    ),
    "a chain": (lambda m, x, w, b: torch.linalg.multi_dot([x, w]), (4, 6), ()),
}  # fmt: skip


@pytest.mark.parametrize("kind", SUMS)
def test_a_product_that_adds_a_tensor_is_a_layer(kind):
    folded(randomise(Added(*SUMS[kind])), torch.randn(5, 4), gone=2)


def test_the_last_matrix_of_a_chain_is_a_layer():
    def product(model, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.linalg.multi_dot([x, w, b])

    result = folded(randomise(Added(product, (4, 3), (3, 6))), torch.randn(5, 4), gone=1, left=1)
    assert result.folded[0].into == ("bias",)


def test_a_sum_in_place_gets_no_further_bias():
    def product(model, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return (x @ b).addmm_(x, w, alpha=2)

    result = folded(randomise(Added(product, (4, 6), (4, 6))), torch.randn(5, 4), gone=1, left=1)
    assert "addmm_, which works in place" in reason(result)
