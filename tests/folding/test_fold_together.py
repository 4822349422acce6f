"""Many BatchNorms on shared tensors are solved together, without a search limit, with correct
reasons.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fold_nets import Net, folded, randomise, reason
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_examples import examples
from torch import nn
from torch.nn import functional as F  # noqa: N812

from deployfold.folding import fold
from deployfold.folding.rules.offsets import Offsets
from deployfold.folding.rules.scales import Scales, components


class PyramidBlock(nn.Module):
    """BatchNorm, convolution, BatchNorm, ReLU, convolution, BatchNorm, with a skip connection."""

    def __init__(self, channels: int):
        super().__init__()
        norms = [nn.BatchNorm2d(channels) for _ in range(3)]
        self.first, self.second, self.third = norms
        self.one = nn.Conv2d(channels, channels, 1, bias=False)
        self.two = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x):
        return x + 0.1 * self.third(self.two(torch.relu(self.second(self.one(self.first(x))))))


@pytest.mark.parametrize("blocks", [2, 60])
def test_a_deep_stream_folds_as_a_short_one(blocks):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), *(PyramidBlock(4) for _ in range(blocks)), nn.Conv2d(4, 2, 1)
    )
    folded(randomise(model, positive=True), torch.randn(1, 3, 6, 6), gone=3 * blocks)


def test_the_order_of_branches_does_not_matter():
    def forward(self, x):
        y = self.stem(x)
        names = ("a", "b") if self.swapped else ("b", "a")
        return sum(self.get_submodule(f"head_{n}")(self.get_submodule(n)(y)) for n in names)

    parts = {"stem": nn.Conv2d(3, 4, 1)}
    for name in "ab":
        parts[name], parts[f"head_{name}"] = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)
    model = randomise(Net(forward, **parts), positive=True)
    for swapped in (False, True):
        model.swapped = swapped
        folded(model, torch.randn(1, 3, 6, 6), gone=2)


@pytest.mark.parametrize("depth", [3, 8])
def test_chained_sums(depth):
    """Each sum adds the two sums before it, so the equations form cycles."""

    def forward(self, x):
        a, b = self.one(x), self.two(x)
        for _ in range(depth):
            a, b = b, a + b
        return self.norm(b).sigmoid()

    model = Net(forward, one=nn.Conv2d(3, 4, 1), two=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4))
    folded(randomise(model, positive=True), torch.randn(1, 3, 6, 6), gone=1)


def test_many_chained_sums_end_with_a_reason():
    def forward(self, x):
        a, b = self.one(x), self.two(x)
        for _ in range(200):
            a, b = b, (a + b) * 0.5
        return self.norm(b).sigmoid() + a.sigmoid()

    model = Net(forward, one=nn.Conv2d(3, 4, 1), two=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4))
    left = reason(folded(randomise(model, positive=True), torch.randn(1, 3, 6, 6), gone=0, left=1))
    assert "sigmoid" in left


def test_channels_padded_with_zeros_are_channels_of_their_own():
    """PyramidNet's shortcut: more channels, the new ones zero."""

    def forward(self, x):
        y = self.stem(x)
        z = self.block(y) + F.pad(y, (0, 0, 0, 0, 0, 2))
        return self.norm(z).relu(), self.head(z)

    model = Net(
        forward,
        stem=nn.Conv2d(3, 4, 1),
        block=nn.Conv2d(4, 6, 1),
        norm=nn.BatchNorm2d(6),
        head=nn.Conv2d(6, 2, 1),
    )
    folded(randomise(model, positive=True), torch.randn(1, 3, 6, 6), gone=1)


def test_a_scale_passes_zero_padding_and_a_shift_does_not():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.gamma = nn.Parameter(torch.rand(1, 4, 1, 1) + 0.5)

        def forward(self, x):
            return x * self.gamma

    model = Net(
        lambda self, x: self.conv(F.pad(self.scale(x.relu()), (1, 1, 1, 1))),
        scale=Scale(),
        conv=nn.Conv2d(4, 3, 3),
    )
    result = folded(model.eval(), torch.randn(1, 4, 6, 6), gone=0)
    assert [item.into for item in result.folded] == [("conv",)]
    model.scale = randomise(nn.BatchNorm2d(4))
    assert "padding" in reason(folded(model, torch.randn(1, 4, 6, 6), gone=0, left=1))


@pytest.mark.parametrize("inplace", [False, True])
def test_an_activation_in_place_on_a_residual_stream(inplace):
    """The net is like monai's SegResNet: the activation of the folded copy makes a new tensor."""

    def forward(self, x):
        y = self.stem(x)
        return self.last(self.mid(self.act(self.norm(y))) + y)

    model = Net(
        forward,
        stem=nn.Conv2d(3, 4, 1),
        norm=nn.BatchNorm2d(4),
        act=nn.ReLU(inplace=inplace),
        mid=nn.Conv2d(4, 4, 3, padding=1),
        last=nn.Conv2d(4, 2, 1),
    )
    result = folded(randomise(model, positive=True), torch.randn(2, 3, 6, 6), gone=1)
    assert result.model.act.inplace is False
    assert model.act.inplace is inplace


def test_a_function_in_place_is_named():
    def forward(self, x):
        y = self.stem(x)
        return self.last(self.mid(self.norm(y).relu_()) + y)

    model = Net(
        forward,
        stem=nn.Conv2d(3, 4, 1),
        norm=nn.BatchNorm2d(4),
        mid=nn.Conv2d(4, 4, 3, padding=1),
        last=nn.Conv2d(4, 2, 1),
    )
    left = reason(folded(randomise(model, positive=True), torch.randn(2, 3, 6, 6), gone=0, left=1))
    assert "relu_ in the model's forward overwrites its output" in left


# The algebra.


@settings(max_examples=examples(60))
@given(st.data())
def test_components_are_those_of_a_search(data):
    count = data.draw(st.integers(1, 12))
    item = st.integers(0, count - 1)
    pairs = data.draw(st.lists(st.tuples(item, item), max_size=15))
    arrays = [(np.array([a]), np.array([b])) for a, b in pairs]
    found = components(count, arrays)
    for start in range(count):
        reached, waiting = {start}, [start]
        while waiting:
            here = waiting.pop()
            near = {b for a, b in pairs if a == here} | {a for a, b in pairs if b == here}
            waiting += near - reached
            reached |= near
        assert {other for other in range(count) if found[other] == found[start]} == reached
        assert found[start] == min(reached)


@settings(max_examples=examples(150))
@given(st.data())
def test_tied_scales_keep_every_ratio_that_was_accepted(data):
    count = data.draw(st.integers(2, 8))
    fixed = np.array(data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    positive = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    scales = Scales(count, fixed, positive)
    ratio = st.sampled_from([-2.0, -1.0, 0.5, 1.0, 3.0])
    item = st.integers(0, count - 1)
    accepted = []
    for one, other, number in data.draw(st.lists(st.tuples(item, item, ratio), max_size=12)):
        mark = scales.mark()
        before = [scales.scale(c) for c in range(count)]
        if not scales.tie(one, other, number, lambda root: 0):
            continue
        if data.draw(st.booleans()):
            scales.undo(mark)
            assert [scales.scale(c) for c in range(count)] == pytest.approx(before)
            continue
        accepted.append((one, other, number))
    for one, other, number in accepted:
        assert scales.scale(one) == pytest.approx(number * scales.scale(other))
    for c in range(count):
        if fixed[c]:
            assert scales.scale(c) == pytest.approx(1.0)
        if positive[c]:
            assert scales.scale(c) > 0


@settings(max_examples=examples(150))
@given(st.data())
def test_offsets_satisfy_every_equation(data):
    count = data.draw(st.integers(2, 9))
    fixed = data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    offsets = Offsets(list(fixed))
    item = st.integers(0, count - 1)
    number = st.sampled_from([-1.0, 1.0, 2.0])
    for one, other, third in data.draw(st.lists(st.tuples(item, item, item), max_size=6)):
        offsets.add((one, other, third), (-1.0, data.draw(number), data.draw(number)))
    wanted = {}
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(item)
        changes = offsets.change(start, 1.0, 1e6, lambda other: 0)
        if isinstance(changes, str):
            assert changes
            continue
        wanted[start] = offsets.value(start) + 1.0
        offsets.apply(changes)
        assert offsets.value(start) == pytest.approx(wanted[start])
    for classes, coefficients in zip(offsets.classes, offsets.coefficients, strict=True):
        total = sum(
            c * offsets.value(other) for other, c in zip(classes, coefficients, strict=True)
        )
        assert total == pytest.approx(0.0, abs=1e-8)
    assert all(offsets.value(c) == 0 for c in range(count) if fixed[c])


def test_negative_scales_behind_a_rectifier_are_the_reason():
    """relu → norm → sum → conv folds if every scale is positive; else the reason says so."""

    class Summed(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.last = nn.Conv2d(4, 2, 1)

        def forward(self, x):
            y = self.first(torch.relu(self.one(x))) + self.second(torch.relu(self.other(x)))
            return self.last(y)

    model = randomise(Summed())
    with torch.no_grad():
        model.first.weight.abs_()
        model.second.weight.abs_()
    x = torch.randn(2, 3, 5, 5)
    assert fold(model, (x,)).batchnorms_after == 0
    with torch.no_grad():
        model.second.weight[1] *= -1
    result = fold(model, (x,))
    assert [item.name for item in result.folded] == ["first"]
    assert "1 of its 4 scales are negative" in result.left[0].reason
