"""BatchNorms at several places, tied layers, and operators that are linear in a stored tensor."""

from __future__ import annotations

import pytest
import torch
from fold_nets import Net, folded, randomise, reason
from torch import nn
from torch.nn import functional as F  # noqa: N812


def image() -> torch.Tensor:
    return torch.randn(2, 4, 6, 6)


def test_a_norm_behind_one_layer_and_before_another_goes():
    def forward(self, x):
        return torch.tanh(self.norm(self.before(x))) + self.behind(self.norm(torch.sigmoid(x)))

    for kernel, padding in ((1, 0), (3, 1)):
        convs = [nn.Conv2d(4, 4, kernel, padding=padding) for _ in range(2)]
        net = Net(forward, before=convs[0], behind=convs[1], norm=nn.BatchNorm2d(4))
        result = folded(randomise(net), image(), gone=not padding, left=bool(padding))
    assert "of its 2 places, number 2 takes it neither before (sigmoid" in reason(result)


ON_ITS_OWN = {
    "into the producer": lambda self, x: self.norm(self.norm(self.a(x))),
    "into the consumer": lambda self, x: self.b(self.norm(self.norm(self.norm(x.sigmoid())))),
    "once and twice": lambda self, x: self.norm(self.norm(self.a(x))) + self.norm(self.b(x)),
}


def on_its_own(forward) -> nn.Module:
    one, other = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    return randomise(Net(forward, a=one, b=other, norm=nn.BatchNorm2d(4)))


@pytest.mark.parametrize("way", ON_ITS_OWN)
def test_a_norm_on_its_own_output_goes(way):
    folded(on_its_own(ON_ITS_OWN[way]), image(), gone=1)


def test_a_norm_on_its_own_output_that_others_read_says_so():
    def forward(self, x):
        once = self.norm(self.a(x))
        return self.norm(once) * once

    why = reason(folded(on_its_own(forward), image(), gone=0, left=1))
    assert "its own output, which others read" in why


def test_a_shift_that_a_sum_carries_to_its_own_other_side():
    """Both calls take half of the shift, because they have one bias."""
    net = Net(lambda self, x: self.norm(self.a(x)) + self.a(-x), norm=nn.BatchNorm2d(4, eps=0))
    net.a = nn.Conv2d(4, 4, 1, bias=False)
    nn.init.normal_(net.norm.running_mean)
    folded(net.eval(), image(), gone=1)


@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"padding": 1}, {"bias": False}])
def test_a_pointwise_transposed_convolution_takes_a_shift(options):
    conv = nn.ConvTranspose2d(4, 6, 1, **options)
    folded(randomise(nn.Sequential(nn.Sigmoid(), nn.BatchNorm2d(4), conv)), image(), gone=1)


@pytest.mark.parametrize(
    ("kernel", "options"), [(1, {"stride": 2}), (2, {"stride": 2}), (3, {"padding": 1})]
)
def test_another_transposed_convolution_takes_no_shift(kernel, options):
    conv = nn.ConvTranspose2d(4, 6, kernel, **options)
    model = randomise(nn.Sequential(nn.Sigmoid(), nn.BatchNorm2d(4), conv))
    assert "sums other taps" in reason(folded(model, image(), gone=0, left=1))


class Stored(nn.Module):
    """A product with a stored tensor, and a BatchNorm behind it."""

    def __init__(self, shape, bias=None):
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.randn(shape)), nn.BatchNorm1d(5)
        self.bias = None if bias is None else nn.Parameter(torch.randn(bias))


class Contracted(Stored):
    def forward(self, x):
        return torch.tanh(self.norm(torch.tensordot(x, self.weight, dims=([1, 2], [1, 0]))))


class Inner(Stored):
    def forward(self, x):
        return torch.tanh(self.norm(torch.inner(x, self.weight).transpose(1, 2)))


class Bilinear(Stored):
    def forward(self, x):
        y = F.bilinear(x[:, 0], x[:, 1], self.weight, self.bias)
        return torch.tanh(self.norm(y))


class Rows(Stored):
    def forward(self, x):
        return torch.tanh(self.norm(self.weight[(x[:, 0] > 0).long() + 1].transpose(1, 2)))


class Bags(Stored):
    def __init__(self, mode, **options):
        super().__init__(1)
        self.bag = nn.EmbeddingBag(7, 5, mode=mode, **options)

    def forward(self, x):
        return torch.tanh(self.norm(self.bag((x[:, 0] > 0).long())))


class Multiplied(Stored):
    def factor(self, x):
        one = self.weight.exp() if self.weight.dim() == 2 else x.mT[..., :1]
        return one.expand(len(x), 4, 5)

    def forward(self, x):
        return torch.tanh(self.norm(torch.baddbmm(self.bias, x, self.factor(x)).mT))


class Mapped(Stored):
    def forward(self, x):
        return torch.vmap(lambda y: torch.tanh(self.norm(y)), in_dims=1)(x @ self.weight)


@pytest.mark.parametrize(
    "model",
    [
        Contracted((4, 3, 5)),
        Inner((5, 4)),
        Bilinear((5, 4, 4)),
        Bilinear((5, 4, 4), 5),
        Rows((3, 5)),
        Bags("mean"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_tensor_that_an_operator_is_linear_in_takes_a_norm(model):
    folded(randomise(model), torch.randn(2, 3, 4), gone=1)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Bags("sum"), "adds up rows"),
        (Bags("max"), "takes the largest of rows"),
        (Bags("mean", padding_idx=0), "leaves out rows"),
        (Multiplied((4, 5), 5), "by a tensor that the forward computes"),
        (Multiplied((1,), 5), "two tensors that depend on the input"),
        (Mapped((4, 5)), "runs inside torch.vmap"),
    ],
    ids=["sum", "max", "padding", "computed", "two", "vmap"],
)
def test_the_reason_of_another_operator_is_its_own(model, why):
    result = folded(randomise(model), torch.randn(2, 3, 4), gone=0, left=1)
    assert why in reason(result)
    assert not result.notes


def test_a_norm_before_a_bilinear_layer_is_left():
    net = Net(lambda self, x: self.two(self.norm(torch.sigmoid(x)), x), norm=nn.BatchNorm1d(4))
    net.two = nn.Bilinear(4, 4, 5)
    why = reason(folded(randomise(net), torch.randn(3, 4), gone=0, left=1))
    assert "multiplies two tensors" in why


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_and_a_norm_whose_forwards_are_called(bias):
    """No hook sees such calls."""
    net = Net(lambda self, x: self.norm.forward(self.conv.forward(x)), norm=nn.BatchNorm2d(5))
    net.conv = nn.Conv2d(4, 5, 3, bias=bias)
    assert folded(randomise(net), image(), gone=1).model.conv.bias is not None


def test_a_forward_called_through_the_class_is_left():
    net = Net(lambda self, x: nn.BatchNorm2d.forward(self.norm, x), norm=nn.BatchNorm2d(4))
    model = randomise(nn.Sequential(nn.Conv2d(4, 4, 1), net))
    folded(model, image(), gone=0, left=1)


@pytest.mark.parametrize(
    "norm",
    [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm(4, bias=False)],
    ids=lambda norm: type(norm).__name__,
)
def test_the_affine_part_of_a_norm_takes_up_a_batchnorm(norm):
    last = isinstance(norm, nn.LayerNorm)
    model = nn.Sequential(norm, nn.Flatten(0, 2) if last else nn.Identity(), nn.BatchNorm2d(4))
    model[2] = nn.BatchNorm1d(4) if last else model[2]
    x = image().permute(0, 2, 3, 1) if last else image()
    result = folded(randomise(model.append(nn.Tanh())), x, gone=1)
    assert result.folded[0].into == ("0",)


def test_the_signs_that_keep_a_positive_norm_are_told():
    """The norm before has negative scales, and a sum ties both."""

    def forward(self, x):
        y = self.one(torch.relu(self.a(x)))
        return self.c(self.two(torch.relu(self.b(y))) + y)

    net = Net(forward, a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1), c=nn.Conv2d(4, 4, 1))
    net.one, net.two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    randomise(net)
    nn.init.uniform_(net.one.weight, -2, -1)
    nn.init.uniform_(net.two.weight, 1, 2)
    assert "its scales are positive" in reason(folded(net, image(), gone=1, left=1))


BETWEEN = {
    "mT": lambda y: y.mT,
    "adjoint": lambda y: y.adjoint(),
    "moveaxis": lambda y: torch.moveaxis(y, 2, 3),
    "ravel": lambda y: y.ravel().view(y.shape),
    "dsplit": lambda y: torch.dsplit(y, 2)[1],
    "vstack": lambda y: torch.vstack([y, y.flip(2)]),
    "amax": lambda y: y.amax(2, keepdim=True),
    "min": lambda y: y.min(3).values[..., None],
    "sum": lambda y: y.sum((2, 3), keepdim=True),
    "abs": torch.abs,
    "clamp": lambda y: y.clamp(min=0),
    "threshold": lambda y: F.threshold(y, 0, 0),
    "rrelu": F.rrelu,
}


@pytest.mark.parametrize("way", BETWEEN)
def test_an_operator_between_two_layers_and_their_norm(way):
    model = Net(
        lambda self, x: self.last(self.norm(BETWEEN[way](self.conv(x)))),
        conv=nn.Conv2d(3, 4, 1),
        norm=nn.BatchNorm2d(4),
        last=nn.Conv2d(4, 2, 1),
    )
    folded(randomise(model, positive=True), torch.randn(2, 3, 4, 4), gone=1)


@pytest.mark.parametrize("positive", [True, False])
def test_statistics_pooling_carries_positive_scales(positive):
    def forward(self, x):
        y = self.norm(self.conv(x).relu())
        return self.last(torch.cat([y.mean(2), y.std(2)], 1))

    layers = {"conv": nn.Conv1d(3, 4, 1), "norm": nn.BatchNorm1d(4), "last": nn.Linear(8, 2)}
    model = randomise(Net(forward, **layers), positive=positive)
    folded(model, torch.randn(2, 3, 9), gone=positive, left=not positive)


def test_a_standard_deviation_takes_a_scale_and_no_shift():
    net = Net(lambda self, x: self.norm(self.conv(x).std(2)), conv=nn.Conv1d(3, 4, 1))
    net.norm = nn.BatchNorm1d(4)
    randomise(net, positive=True)
    why = reason(folded(net, torch.randn(2, 3, 9), gone=0, left=1))
    assert "no change of its input shifts the result" in why
