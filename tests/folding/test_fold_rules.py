"""Each rule folds layers of every rank, and refuses every case that it must not fold."""

from __future__ import annotations

import copy

import pytest
import torch
from fold_nets import Net, folded, randomise, reason
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_examples import examples
from torch import nn
from torch.nn import functional as F  # noqa: N812

NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@settings(max_examples=examples(60))
@given(
    rank=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    widths=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    affine=st.booleans(),
    padding_mode=st.sampled_from(["zeros", "circular", "reflect", "replicate"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_convolution(
    rank, groups, widths, kernel, stride, dilation, bias, affine, padding_mode, dtype
):
    if rank == 3 and padding_mode == "reflect":
        padding_mode = "zeros"
    conv = CONVS[rank](
        groups * widths[0],
        groups * widths[1],
        kernel,
        stride=stride,
        padding=kernel // 2,
        dilation=dilation,
        groups=groups,
        bias=bias,
        padding_mode=padding_mode,
    )
    norm = NORMS[rank](groups * widths[1], affine=affine)
    model = randomise(nn.Sequential(conv, norm)).to(dtype)
    result = folded(model, torch.randn(2, groups * widths[0], *[6] * rank, dtype=dtype), gone=1)
    assert isinstance(result.model[1], nn.Identity)
    assert result.model[0].bias is not None


@settings(max_examples=examples(40))
@given(
    rank=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 3]),
    widths=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    bias=st.booleans(),
)
def test_transposed_convolution(rank, groups, widths, kernel, stride, bias):
    """The weight has the input channels first; groups split the second axis (pytorch#180995)."""
    inner, outer = groups * widths[0], groups * widths[1]
    conv = TRANSPOSED[rank](inner, outer, kernel, stride=stride, groups=groups, bias=bias)
    model = randomise(nn.Sequential(conv, NORMS[rank](outer)))
    folded(model, torch.randn(2, inner, *[4] * rank), gone=1)


@settings(max_examples=examples(20))
@given(
    width=st.tuples(st.integers(1, 5), st.integers(1, 5)), bias=st.booleans(), affine=st.booleans()
)
def test_linear(width, bias, affine):
    """The cases include affine=False (pytorch#72049)."""
    model = nn.Sequential(nn.Linear(*width, bias=bias), nn.BatchNorm1d(width[1], affine=affine))
    folded(randomise(model), torch.randn(3, width[0]), gone=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    model = randomise(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))).to(dtype)
    scale = model[1].weight.double() / (model[1].running_var.double() + model[1].eps).sqrt()
    expected = (model[0].weight.double() * scale.view(-1, 1, 1, 1)).to(dtype)
    from deployfold.folding import fold

    result = fold(model, (torch.randn(1, 3, 8, 8, dtype=dtype),))
    assert torch.equal(result.model[0].weight, expected)


def test_linear_on_a_sequence_is_left():
    """On (N, C, L) the channel axis is not the linear layer's output."""
    model = randomise(nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(4)))
    assert "another axis" in reason(folded(model, torch.randn(2, 4, 5), gone=0, left=1))


def test_linear_then_flatten_then_norm():
    model = Net(
        lambda self, x: self.norm(self.linear(x).flatten(0, 1)).reshape(2, 3, 6),
        linear=nn.Linear(5, 6),
        norm=nn.BatchNorm1d(6),
    )
    folded(randomise(model), torch.randn(2, 3, 5), gone=1)


def test_reshape_as_does_not_count_as_a_reader():
    def forward(self, x):
        y = self.linear(x)
        return self.norm(y.flatten(0, 1)).reshape_as(y)

    model = Net(forward, linear=nn.Linear(5, 6), norm=nn.BatchNorm1d(6))
    folded(randomise(model), torch.randn(2, 3, 5), gone=1)


@pytest.mark.parametrize(
    "between",
    [
        lambda y: y,
        lambda y: F.dropout(y, training=False),
        lambda y: y.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
        lambda y: F.avg_pool2d(y, 2),
        lambda y: F.avg_pool2d(y, 2, padding=1, count_include_pad=False),
        lambda y: F.adaptive_avg_pool2d(y, 3),
        lambda y: F.interpolate(y, scale_factor=2),
        lambda y: F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False),
        lambda y: F.interpolate(y, scale_factor=2, mode="bicubic"),
        lambda y: y[:, :, 1:],
        lambda y: y[..., ::2],
        lambda y: F.pad(y, (1, 1, 1, 1), mode="replicate"),
        lambda y: y.flip(-1).roll(1, 2),
        lambda y: y.reshape(y.shape[0], 8, -1).unflatten(2, (4, 4)),
        lambda y: y * 2.0,
        lambda y: y / 4.0,
        lambda y: y.mean((2, 3), keepdim=True),
    ],
)
def test_through_what_commutes(between):
    model = Net(
        lambda self, x: self.norm(between(self.conv(x))),
        conv=nn.Conv2d(3, 8, 3),
        norm=nn.BatchNorm2d(8),
    )
    folded(randomise(model), torch.randn(2, 3, 6, 6), gone=1)


@pytest.mark.parametrize(
    ("between", "why"),
    [
        (torch.relu, "only a positive scale"),
        (lambda y: F.pad(y, (1, 1)), "zero padding"),
        (lambda y: F.pad(y, (1, 1), value=2.0), "constant other than zero"),
        (lambda y: F.avg_pool2d(y, 3, padding=1), "do not add up to one"),
        (lambda y: F.avg_pool2d(y, 2, divisor_override=3), "do not add up to one"),
        (lambda y: y * y.mean(), "lies between"),
        (lambda y: torch.softmax(y, 1), "no channel-wise map"),
        (lambda y: y.reshape(y.shape[0], 4, 8, 4).permute(0, 2, 1, 3), "channel"),
    ],
)
def test_a_norm_behind_an_operator_that_does_not_commute_is_left(between, why):
    model = Net(
        lambda self, x: self.norm(between(self.conv(x))),
        conv=nn.Conv2d(3, 8, 3),
        norm=nn.BatchNorm2d(8),
    )
    assert why in reason(folded(randomise(model), torch.randn(2, 3, 6, 6), gone=0, left=1))


def test_max_pool_with_a_negative_scale_is_left():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.BatchNorm2d(8))
    left = folded(randomise(model), torch.randn(2, 3, 8, 8), gone=0, left=1)
    assert "negative scale" in reason(left)
    folded(randomise(model, positive=True), torch.randn(2, 3, 8, 8), gone=1)


def test_pixel_shuffle_expands_the_parameters():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.BatchNorm2d(2))
    folded(randomise(model), torch.randn(2, 3, 6, 6), gone=1)


def test_chunks_of_one_layer():
    def forward(self, x):
        left, right = self.conv(x).chunk(2, dim=1)
        return self.norm(left) + right.sigmoid()

    model = Net(forward, conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(4))
    folded(randomise(model), torch.randn(2, 3, 6, 6), gone=1)


def test_concatenation_splits_the_map():
    model = Net(
        lambda self, x: self.norm(torch.cat([self.a(x), self.b(x)], 1)),
        a=nn.Conv2d(3, 4, 3),
        b=nn.Conv2d(3, 6, 3, bias=False),
        norm=nn.BatchNorm2d(10),
    )
    assert folded(randomise(model), torch.randn(2, 3, 6, 6), gone=1).folded[0].into == ("a", "b")


def test_concatenation_with_another_reader_is_left():
    def forward(self, x):
        y = torch.cat([self.a(x), self.b(x)], 1)
        return self.norm(y).relu() + y

    model = Net(
        forward, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(3, 6, 3, bias=False), norm=nn.BatchNorm2d(10)
    )
    assert "also feeds" in reason(folded(randomise(model), torch.randn(2, 3, 6, 6), gone=0, left=1))


@pytest.mark.parametrize("operation", [torch.add, torch.sub])
def test_sum_takes_the_shift_once(operation):
    model = Net(
        lambda self, x, y: self.norm(operation(self.a(x), self.b(y))),
        a=nn.Conv2d(3, 4, 3),
        b=nn.Conv2d(3, 4, 3),
        norm=nn.BatchNorm2d(4),
    )
    folded(randomise(model), torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 6), gone=1)


@pytest.mark.parametrize("padding_mode", ["zeros", "circular", "replicate", "reflect"])
def test_before_a_convolution(padding_mode):
    """Exact when the padding adds no zeros; a padding that copies is done on the input first."""
    padding = 0 if padding_mode == "zeros" else 1
    conv = nn.Conv2d(4, 6, 3, padding=padding, padding_mode=padding_mode, groups=2, bias=False)
    folded(randomise(nn.Sequential(nn.BatchNorm2d(4), conv)), torch.randn(2, 4, 6, 6), gone=1)


@pytest.mark.parametrize("padding", [1, "same"])
def test_before_a_zero_padded_convolution_is_left(padding):
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=padding))
    left = folded(randomise(model), torch.randn(2, 4, 6, 6), gone=0, left=1)
    assert "pads with zeros" in reason(left)


def test_before_flatten_and_linear():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 5))
    folded(randomise(model), torch.randn(2, 4, 6, 6), gone=1)


def test_before_a_transposed_convolution_is_left():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 3))
    assert "taps" in reason(folded(randomise(model), torch.randn(2, 4, 6, 6), gone=0, left=1))


def test_norm_into_norm_and_linear():
    model = Net(
        lambda self, x: self.a(self.first(x)) + self.b(torch.relu(self.second(self.first(x)))),
        first=nn.BatchNorm1d(4),
        second=nn.BatchNorm1d(4),
        a=nn.Linear(4, 3),
        b=nn.Linear(4, 3),
    )
    result = folded(randomise(model), torch.randn(5, 4), gone=1, left=1)
    assert result.left[0].name == "second"


def test_norm_after_norm_after_conv():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False))
    folded(randomise(model), torch.randn(2, 3, 6, 6), gone=2)


def test_on_the_input_and_on_an_activation_is_left():
    model = randomise(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3)))
    left = reason(folded(model, torch.randn(2, 3, 6, 6), gone=0, left=1))
    assert "input" in left
    assert "goes into" in left


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 3, 8, 8)])
def test_batch_axis_is_optional_for_convolutions(shape):
    """Without a batch axis, BatchNorm2d takes nothing: only the functional form runs."""
    model = Net(
        lambda self, x: self.conv(x) if x.dim() == 3 else self.norm(self.conv(x)),
        conv=nn.Conv2d(3, 4, 3),
        norm=nn.BatchNorm2d(4),
    )
    gone = int(len(shape) == 4)
    result = folded(randomise(model), torch.randn(shape), gone=gone, left=1 - gone)
    if not gone:
        assert "did not reach" in reason(result)


def test_definition_order_does_not_matter():
    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm2, self.norm1 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.conv2, self.conv1 = nn.Conv2d(4, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))

    result = folded(randomise(Swapped()), torch.randn(2, 3, 8, 8), gone=2)
    assert {item.name: item.into for item in result.folded} == {
        "norm1": ("conv1",),
        "norm2": ("conv2",),
    }
    assert type(result.model).__name__ == "Swapped"


def test_the_input_model_is_not_shared_with_the_result():
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)))
    result = folded(model, torch.randn(1, 3, 6, 6), gone=1)
    ours = {parameter.data_ptr() for parameter in model.parameters()}
    assert not ours & {parameter.data_ptr() for parameter in result.model.parameters()}
    copy.deepcopy(result.model)
