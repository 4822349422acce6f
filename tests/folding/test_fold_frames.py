"""Raw uint8 pictures: the normalisation inside the model, folded into its first convolutions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import deployfold
from deployfold.folding.frames import Absorbed, Frames, absorb

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _net(padding: int = 0, groups: int = 1) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=padding, groups=groups), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 4, 3),
    )  # fmt: skip
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 1.5)
    return net.eval()


def _pictures(layout: str, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (2, 3, 12, 10), generator=generator, dtype=torch.uint8)
    return frames if layout == "nchw" else frames.permute(0, 2, 3, 1).contiguous()


def _normalised(
    frames: torch.Tensor, layout: str, mean: tuple[float, ...], flip: bool
) -> torch.Tensor:
    """The floats of a data loader, in float64."""
    x = frames.double() / 255
    x = x if layout == "nchw" else x.permute(0, 3, 1, 2)
    x = x.flip(1) if flip else x
    wide = (torch.tensor(values, dtype=torch.float64).reshape(1, 3, 1, 1) for values in (mean, STD))
    middle, spread = wide
    return (x - middle) / spread


def _absorbed(net: nn.Module, layout: str, mean: tuple[float, ...], flip: bool) -> Absorbed:
    frames = Frames(net, mean, STD, layout=layout, own_layout="nchw", flip=flip).eval()
    x = _pictures(layout)
    result = deployfold.fold(frames, (x,))
    assert result.verification.float64_relative is not None
    assert isinstance(result.model, Frames)
    return absorb(result.model, (x,))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("padding", "mean", "flip", "left", "part"),
    [
        (0, MEAN, False, (False, False), "the scale and the mean went into '0'."),
        (0, MEAN, True, (False, False), "the scale, the channel order and the mean went into '0'."),
        (1, MEAN, True, (True, False), "; the mean stays an operation: '0' pads with zeros."),
        (1, (0.0,) * 3, True, (False, False), "the scale and the channel order went into '0'."),
    ],
)
def test_the_normalisation_goes_into_the_first_convolution(
    layout: str,
    padding: int,
    mean: tuple[float, ...],
    flip: bool,
    left: tuple[bool, bool],
    part: str,
) -> None:
    net = _net(padding)
    found = _absorbed(net, layout, mean, flip)
    assert found.note.endswith(part)
    model = found.model
    assert (model.mean is not None, model.flip) == left
    assert model.scale is None or model.scale.numel() == 1
    x = _pictures(layout, seed=1)
    expected = net.double()(_normalised(x, layout, mean, flip))
    with torch.no_grad():
        difference = (model(x) - expected).abs().max() / expected.abs().max()
    assert difference < 1e-5


def test_groups_and_other_readers_keep_their_operations():
    found = _absorbed(_net(groups=3), "nhwc", MEAN, flip=True)
    assert found.model.flip
    assert found.model.mean is not None
    assert "the channel order and the mean stay operations" in found.note

    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) + x

    found = _absorbed(Skips().eval(), "nchw", MEAN, flip=False)
    assert found.model.mean is not None


@settings(max_examples=15, deadline=None)
@given(
    mean=st.tuples(*[st.floats(0, 1)] * 3), kernel=st.integers(1, 3), stride=st.integers(1, 2),
    bias=st.booleans(), flip=st.booleans(), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_mean_and_kernel(
    mean: tuple[float, ...], kernel: int, stride: int, bias: bool, flip: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 5, kernel, stride, bias=bias), nn.Tanh()).eval()
    found = _absorbed(net, "nchw", mean, flip)
    assert found.model.mean is None
    x = _pictures("nchw", seed)
    expected = net.double()(_normalised(x, "nchw", mean, flip))
    with torch.no_grad():
        assert (found.model(x) - expected).abs().max() < 1e-4
