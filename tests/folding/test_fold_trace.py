"""Tracing: without numbers where the model lets it, and with them where it does not."""

from __future__ import annotations

import inspect
import json
import sys

import pytest
import torch
from cli_runs import run
from fold_nets import Net, device_of, folded, randomise
from torch import nn

from deployfold.errors import FoldError
from deployfold.folding import fold
from deployfold.folding.graph.trace import trace


def image() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8)


def test_a_plain_model_is_traced_without_computing():
    seen = []

    def forward(self, x):
        seen.append(device_of(x))
        return self.norm(self.conv(x))

    net = randomise(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))
    graph = trace(net, (image(),))
    assert seen == ["meta"]
    assert [op.name for op in graph.ops] == ["conv2d", "batch_norm"]
    assert {tensor.device.type for tensor in (*net.parameters(), *net.buffers())} == {"cpu"}


def test_code_that_needs_numbers_is_traced_with_them():
    seen = []

    def forward(self, x):
        seen.append(device_of(x))
        y = self.norm(self.conv(x))
        return y * 2 if x.mean().item() < 1e9 else y

    net = randomise(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))
    trace(net, (image(),))
    assert seen == ["meta", "cpu"]
    folded(net, image(), gone=1)


def test_tensors_that_share_their_numbers_are_traced_with_them():
    """A pass without numbers cannot see that a write to one tensor changes the other."""

    def forward(self, x):
        self.alias.add_(1.0)
        return self.norm(self.conv(x))

    net = randomise(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))
    net.alias = nn.Parameter(net.norm.weight.detach())
    graph = trace(net, (image(),))
    assert "norm.weight" in graph.mutated


def test_an_input_that_only_its_numbers_make_invalid_is_named():
    def forward(self, x, index):
        return self.norm(self.conv(x)) + self.table(index).sum()

    net = Net(
        forward,
        conv=nn.Conv2d(3, 4, 3),
        norm=nn.BatchNorm2d(4),
        table=nn.Embedding(4, 2),
    )
    with pytest.raises(FoldError, match="fails on the example input 2x3x8x8, 1: IndexError"):
        fold(randomise(net), (image(), torch.tensor([9])))


class Nested(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.norm = inner, nn.BatchNorm2d(3)

    def forward(self, x):
        return torch.relu(self.norm(self.inner(x)))


def nested(depth: int = 200) -> nn.Module:
    module: nn.Module = nn.Conv2d(3, 3, 1)
    for _ in range(depth):
        module = Nested(module)
    return module.eval()


@pytest.fixture
def usual_limit():
    """Python's default; a command that another test ran in this process has raised it."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(limit)


def test_a_model_nested_too_deep_is_not_blamed(usual_limit):
    x = torch.randn(1, 3, 4, 4)
    model = nested()
    with torch.no_grad():
        model(x)  # Python's limit is enough for the model alone
    with pytest.raises(FoldError, match="nested too deep to be traced") as refused:
        fold(model, (x,))
    assert "setrecursionlimit" in str(refused.value.hint)


def test_the_command_folds_a_model_nested_200_deep(tmp_path):
    (tmp_path / "deep.py").write_text(
        "import torch\nfrom torch import nn\n\n"
        + inspect.getsource(Nested)
        + "\n\n"
        + inspect.getsource(nested)
    )
    words = ("fold", "deep:nested", "--input", "1x3x4x4", "--json")
    done = run(*words, cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    unneeded = {
        "onnx",
        "onnxruntime",
        "deployfold.lowering",
        "torchvision",
        "torch._dynamo",
        "sympy",
    }
    assert "torch" in imported
    assert not unneeded & imported  # their imports take longer than folding
    assert len(json.loads(done.stdout)["fold"]["folded"]) == 200


BRANCHES = {
    "type": lambda x: x.device.type == "cpu",
    "device": lambda x: x.device == torch.device("cpu"),
    "name": lambda x: str(x.device) == "cpu",
    "is_cuda": lambda x: not x.is_cuda,
    "is_meta": lambda x: not x.is_meta,
    "number": lambda x: x.get_device() < 0,
}


@pytest.mark.parametrize("way", BRANCHES)
def test_a_forward_that_branches_on_its_device_takes_its_usual_branch(way):
    def forward(self, x):
        y = self.norm(self.conv(x) if BRANCHES[way](x) else torch.tanh(x))
        return y + torch.arange(4, device=x.device).to(self.conv.weight.device)

    net = Net(forward, conv=nn.Conv1d(3, 4, 1), norm=nn.BatchNorm1d(4))
    folded(randomise(net), torch.randn(2, 3, 4), gone=1)
