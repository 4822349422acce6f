"""The results of operators on the meta device, against the operators' kernels on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

from deployfold.folding.graph.meta_results import meta_result
from deployfold.folding.modules import map_tensors
from deployfold.util.seeded import bind_schema


class Checked(TorchDispatchMode):
    """Compares the result of every operator with that of its rule, and lists the rules that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.by_rule: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = map_tensors(bind_schema(func, args, kwargs or {}), lambda t: t.to("meta"))
        found = meta_result(func, given)
        result = func(*args, **(kwargs or {}))
        if found is not None:
            wanted = (result.shape, result.dtype, _strides(result))
            assert (found.shape, found.dtype, _strides(found)) == wanted, func
            self.by_rule.append(str(func.overloadpacket.__name__))
        return result


def _strides(tensor: torch.Tensor) -> list[int]:
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return [stride for size, stride in sizes if size > 1]


X = torch.randn(2, 8, 7, 6)
LAST = X.permute(0, 2, 3, 1)  # as a net with the channels last has it
V = torch.randn(8)
W = torch.randn(12, 4, 3, 2)
Q = torch.randn(2, 3, 5, 8)

RULED = {
    "relu": lambda: F.relu(X),
    "gelu": lambda: F.gelu(LAST),
    "hardswish_": lambda: F.hardswish(X.clone(), inplace=True),
    "prelu": lambda: F.prelu(X, V),
    "add": lambda: X + X,
    "mul": lambda: LAST * LAST,
    "sub": lambda: X - 1,
    "div": lambda: X / V[:, None, None],
    "add_": lambda: X.clone().add_(2, alpha=3),
    "batch_norm": lambda: F.batch_norm(X, V, V.abs()),
    "layer_norm": lambda: F.layer_norm(LAST, (8,), V, V),
    "linear": lambda: F.linear(X, torch.randn(4, 6), torch.randn(4)),
    "conv2d": lambda: F.conv2d(X, W, None, (2, 1), (1, 3), 2, groups=2),
    "conv1d": lambda: F.conv1d(X[0], torch.randn(5, 7, 3), V[:5], padding=2),
    "cat": lambda: torch.cat([X, X[:, :3].contiguous()], -3),
    "scaled_dot_product_attention": lambda: F.scaled_dot_product_attention(Q, Q, Q[..., :4]),
    "adaptive_avg_pool2d": lambda: F.adaptive_avg_pool2d(X, (3, None)),
    "upsample_bicubic2d": lambda: F.interpolate(X, (9, 4), mode="bicubic"),
    "upsample_nearest2d": lambda: F.interpolate(X, (9, 4)),
    "mean": lambda: X.mean((2, -1), keepdim=True),
}


@pytest.mark.parametrize("name", RULED)
def test_a_rule_gives_what_the_kernel_gives(name):
    with torch.inference_mode(), Checked() as checked:
        RULED[name]()
    assert name in checked.by_rule


UNUSUAL = {
    "sizes that do not fit": lambda: F.linear(X, torch.randn(4, 5)),
    "channels that do not fit": lambda: F.conv2d(X, torch.randn(4, 7, 3, 3)),
    "too small": lambda: F.conv2d(X, torch.randn(4, 8, 9, 9)),
    "shapes that do not spread": lambda: X + torch.randn(2, 8, 7, 5),
    "another rank": lambda: torch.cat([X, X[0]]),
    "no such axis": lambda: X.mean(7),
    "another shape to normalise": lambda: torch.layer_norm(X, (5,)),
    "heads that do not fit": lambda: F.scaled_dot_product_attention(Q, Q[..., :4], Q),
    "a wider operand in place": lambda: V.clone().add_(X),
}


@pytest.mark.parametrize("what", UNUSUAL)
def test_wrong_arguments_are_left_to_torch(what):
    """The operator itself then raises the error, as the model's forward would."""
    checked = Checked()
    with pytest.raises((RuntimeError, IndexError)), torch.inference_mode(), checked:
        UNUSUAL[what]()
    assert not set(checked.by_rule) - {"clone"}


PROMOTED = {
    "an integer": lambda: torch.arange(3) / 2,
    "a wider number": lambda: X * torch.ones((), dtype=torch.float64),
    "a wider tensor": lambda: X + X.double(),
    "another order": lambda: (
        X + LAST.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    ),
    "a smaller one first": lambda: V[:, None, None] * X,
    "channels last": lambda: F.conv2d(X.to(memory_format=torch.channels_last), W, groups=2),
    "another type": lambda: X.mean(1, dtype=torch.float64),
    "half the size": lambda: F.interpolate(X, scale_factor=0.5),
    "rounding": lambda: torch.div(X, 2, rounding_mode="floor"),
    "training": lambda: F.batch_norm(X, V.clone(), V.abs(), training=True),
    "same": lambda: F.conv2d(X, torch.randn(4, 8, 3, 3), padding="same"),
}


@pytest.mark.parametrize("what", PROMOTED)
def test_other_results_agree_with_the_kernel_or_are_left_to_torch(what):
    with torch.inference_mode(), Checked():
        PROMOTED[what]()
