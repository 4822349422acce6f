"""Folding into all layers around: several readers, attention, channels on several axes."""

from __future__ import annotations

import pytest
import torch
from fold_nets import Net, folded, randomise, reason
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_examples import examples
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def image(channels: int = 3, size: int = 7) -> Tensor:
    return torch.randn(2, channels, size, size)


@settings(max_examples=examples(15))
@given(
    groups=st.sampled_from([1, 2, 3]),
    width=st.integers(1, 2),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    bias=st.booleans(),
    mode=st.sampled_from(["zeros", "reflect", "circular"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_other_readers_take_up_the_inverse(groups, width, kernel, stride, bias, mode, dtype, seed):
    """A producer that also feeds a convolution, a linear layer and another BatchNorm."""
    channels = groups * width
    padding = 0 if mode == "zeros" else 1

    def forward(self, x):
        y = self.first(x)
        return (
            self.norm(y).relu(),
            self.conv(y),
            self.linear(y.mean((2, 3))),
            self.other(y).tanh(),
        )

    model = Net(
        forward,
        first=nn.Conv2d(groups, channels, kernel, stride=stride, groups=groups, bias=bias),
        norm=nn.BatchNorm2d(channels),
        other=nn.BatchNorm2d(channels),
        conv=nn.Conv2d(
            channels, 2 * groups, 3, groups=groups, bias=bias, padding=padding, padding_mode=mode
        ),
        linear=nn.Linear(channels, 4, bias=bias),
    )
    model = randomise(model, seed, positive=True).to(dtype)
    result = folded(model, torch.randn(2, groups, 9, 9, dtype=dtype), gone=1, left=1)
    assert set(result.folded[0].into) == {"first", "conv", "linear", "other"}


@pytest.mark.parametrize("what", ["padding", "transposed", "activation", "output", "zero"])
def test_reader_that_cannot_is_respected(what):
    reader = nn.ConvTranspose2d(4, 2, 3) if what == "transposed" else nn.Conv2d(4, 2, 3)
    if what == "padding":
        reader = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x):
        y = self.first(x)
        others = (self.reader(y), y) if what == "output" else (self.reader(y),)
        others = (y.sigmoid(), *others) if what == "activation" else others
        return self.norm(y).relu(), *others

    model = Net(forward, first=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), reader=reader)
    randomise(model)
    if what == "zero":
        with torch.no_grad():
            model.norm.weight[1] = 0.0
    assert "also" in reason(folded(model, image(), gone=0, left=1))


def test_scale_alone_passes_padding_and_rectifiers():
    def forward(self, x):
        y = self.first(x)
        return self.norm(y).tanh(), self.reader(y.relu())

    model = Net(
        forward,
        first=nn.Conv2d(3, 4, 3),
        norm=nn.BatchNorm2d(4),
        reader=nn.Conv2d(4, 2, 3, padding=1),
    )
    randomise(model, positive=True)
    folded(model, image(), gone=0, left=1)
    nn.init.zeros_(model.norm.bias)
    nn.init.zeros_(model.norm.running_mean)
    folded(model, image(), gone=1)


@settings(max_examples=examples(8))
@given(heads=st.integers(1, 3), width=st.integers(1, 3), first=st.booleans(), dropout=st.booleans())
def test_behind_attention(heads, width, first, dropout):
    """The rows of the attention add up to one, so it averages values of one scale and shift."""
    channels = heads * width

    def forward(self, x):
        n, _, h, w = x.shape
        q, k, v = (
            part.reshape(n, heads, width, h * w) for part in self.qkv(x).split(channels, dim=1)
        )
        weights = (q.transpose(-1, -2) @ k).softmax(-1)
        weights = F.dropout(weights, 0.5, training=False) if dropout else weights
        y = weights @ v.transpose(-1, -2) if first else v @ weights.transpose(-1, -2)
        y = y.transpose(-1, -2) if first else y
        return self.norm(y.reshape(n, channels, h, w)).relu()

    model = Net(forward, qkv=nn.Conv2d(3, 3 * channels, 1), norm=nn.BatchNorm2d(channels))
    folded(randomise(model), image(size=4), gone=1)


def test_behind_attention_over_the_wrong_axis_is_left():
    def forward(self, x):
        y = self.value(x).flatten(2)
        weights = (y.transpose(-1, -2) @ y).softmax(-2)
        return self.norm(weights @ y.transpose(-1, -2)).relu()

    model = Net(forward, value=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm1d(16))
    folded(randomise(model), image(size=4), gone=0, left=1)


@pytest.mark.parametrize("masked", [False, True])
def test_behind_fused_attention(masked):
    def forward(self, x):
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mask = x.new_zeros(length, length) if masked else None
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.norm(y.transpose(1, 2).reshape(n, length, 8).transpose(1, 2)).relu()

    model = Net(forward, qkv=nn.Linear(5, 24), norm=nn.BatchNorm1d(8))
    folded(randomise(model), torch.randn(2, 6, 5), gone=int(not masked), left=int(masked))


@settings(max_examples=examples(10))
@given(groups=st.sampled_from([1, 2, 3, 4]), stacked=st.booleans(), seed=st.integers(0, 99))
def test_channels_on_several_axes(groups, stacked, seed):
    """A channel shuffle written out, and halves of one layer that meet again."""

    def forward(self, x):
        y = self.conv(x)
        n, c, h, w = y.shape
        y = y.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        if stacked:
            one, two = y.chunk(2, dim=1)
            y = torch.cat([self.part(one), two], 1)
        return self.norm(y).relu()

    model = Net(forward, conv=nn.Conv2d(3, 12, 3), norm=nn.BatchNorm2d(12), part=nn.BatchNorm2d(6))
    folded(randomise(model, seed), image(), gone=2 if stacked else 1, left=int(not stacked))


@pytest.mark.parametrize(
    "between",
    [
        lambda y: -y,
        lambda y: 1 - y,
        lambda y: (y + 0.5) * 3 - 1,
        lambda y: y.add_(2.0),
        lambda y: torch.stack([y, -2 * y[:, :, :, :]], 0)[0],
        lambda y: torch.stack([y.flip(-1), y.roll(1, -1)]).mean(0),
        lambda y: torch.cat([y, y.flip(2)], 2),
    ],
)
def test_constants_and_signs_between(between):
    model = Net(
        lambda self, x: self.norm(between(self.conv(x))),
        conv=nn.Conv2d(3, 4, 3),
        norm=nn.BatchNorm2d(4),
    )
    folded(randomise(model), image(), gone=1)


class OwnBias(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.own = nn.Parameter(torch.randn(shape))

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y + (self.own.view(1, -1, 1, 1) if self.own.dim() == 1 else self.own))


@pytest.mark.parametrize(("shape", "gone"), [((4,), 1), ((4, 1, 1), 1), ((1, 4, 5, 5), 0)])
def test_stored_summand(shape, gone):
    """The bias can absorb a constant summand, but not one that varies over positions."""
    folded(randomise(OwnBias(*shape)), image(), gone=gone, left=1 - gone)


def test_residual_stream_is_changed_as_a_whole():
    """conv -> + -> BN, where the sum is also read by convolutions of the next block."""

    def forward(self, x):
        y = self.stem(x)
        for block, skip in zip(self.blocks, self.skips, strict=True):
            y = block(y).relu() if skip is None else skip(block(y).relu()) + y
        return self.norm(y).relu(), self.head(y)

    model = Net(
        forward,
        stem=nn.Conv2d(3, 4, 1),
        blocks=nn.ModuleList([nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 1)]),
        skips=nn.ModuleList([nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 1)]),
        norm=nn.BatchNorm2d(4),
        head=nn.Conv2d(4, 2, 3),
    )
    result = folded(randomise(model, positive=True), image(), gone=1)
    assert {"stem", "head"} < set(result.folded[0].into)


class _NormAct(nn.BatchNorm2d):
    """A norm like timm's ``BatchNormAct2d``, with an activation in place on its result."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


@pytest.mark.parametrize("first", [True, False])
def test_an_activation_in_place_spares_the_other_reader(first):
    """Without the norm, the activation would change the convolution's output in place."""

    def forward(self, x):
        y = self.conv(x)
        if first:
            left = self.norm(y)
            return left, self.branch(F.avg_pool2d(y, 2))
        right = self.branch(F.avg_pool2d(y, 2))
        return self.norm(y), right

    model = randomise(
        Net(forward, conv=nn.Conv2d(3, 4, 3), norm=_NormAct(4), branch=nn.Conv2d(4, 2, 1)),
        positive=True,
    )
    result = folded(model, image(), gone=1)
    outputs = result.model(image())
    sum(output.sum() for output in outputs).backward()  # autograd notices what was overwritten
    assert result.model.conv.weight.grad is not None
    assert model.norm.act.inplace, "the user's own model is as it was"


class _OwnForward(nn.BatchNorm2d):
    """A norm like timm's ``BatchNormAct2d``, which calls the function itself; the test chooses
    ``how``.
    """

    how = "stored"

    def forward(self, x: Tensor) -> Tensor:
        eps = 2 * self.eps if self.how == "another eps" else self.eps
        y = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=eps
        ).tanh()
        return y + self.weight.mean() if self.how == "weight read twice" else y


@pytest.mark.parametrize(
    ("how", "gone"),
    [("stored", 1), ("another eps", 0), ("weight read twice", 0), ("shared weight", 0)],
)
def test_a_class_with_its_own_forward_takes_up_the_inverse(how, gone):
    def forward(self, x):
        y = self.conv(x)
        return self.first(y), self.second(y)

    model = Net(forward, conv=nn.Conv2d(3, 4, 3), first=_OwnForward(4), second=_OwnForward(4))
    model.first.how = model.second.how = how
    randomise(model, positive=True)
    if how == "shared weight":
        model.second.weight = model.first.weight
    result = folded(model, image(), gone=gone, left=2 - gone)
    if gone:
        assert set(result.folded[0].into) == {"conv", "second"}
    assert all("also" in item.reason for item in result.left), "not by trying"


@pytest.mark.parametrize("view", [False, True])
def test_a_separate_activation_in_place_becomes_out_of_place(view):
    def forward(self, x):
        y = self.conv(x)
        right = self.branch(F.avg_pool2d(y, 2))
        left = self.norm(y)
        return self.act(left.flatten(2) if view else left), right

    model = Net(
        forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), act=nn.ReLU(inplace=True),
        branch=nn.Conv2d(4, 2, 1),
    )  # fmt: skip
    result = folded(randomise(model, positive=True), image(), gone=1)
    assert result.model.act.inplace is False
    assert model.act.inplace, "the user's own model is as it was"
