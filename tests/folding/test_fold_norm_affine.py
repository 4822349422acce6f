"""The affine parameters of LayerNorm and its relatives fold into the layers behind them."""

from __future__ import annotations

import json

import pytest
import torch
from cli_runs import run
from fold_nets import outputs_of
from torch import nn
from torch.nn import functional

from deployfold.folding import fold


def trained(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.7, 1.3)
    return model.eval()


class Block(nn.Module):
    """A pre-norm transformer block, whose first norm three layers read."""

    def __init__(self, biased: bool = True):
        super().__init__()
        self.before, self.behind = nn.LayerNorm(8), nn.LayerNorm(8)
        self.query, self.key, self.value = (nn.Linear(8, 8, bias=biased) for _ in range(3))
        self.out, self.wide, self.narrow = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        y = self.before(x)
        weights = (self.query(y) @ self.key(y).transpose(-1, -2)).softmax(-1)
        x = x + self.out(weights @ self.value(y))
        return x + self.narrow(functional.gelu(self.wide(self.behind(x))))


def check(model: nn.Module, x: torch.Tensor, *names: str):
    result = fold(trained(model), (x,))
    assert [item.name for item in result.folded if item.kind != "scale"] == list(names)
    assert result.verification.float64_relative < 1e-12
    torch.testing.assert_close(
        outputs_of(result.model, x), outputs_of(model, x), rtol=1e-4, atol=1e-4
    )
    return result


def test_layer_norms_of_a_transformer_block():
    result = check(Block(), torch.randn(2, 5, 8), "before", "behind")
    assert [item.kind for item in result.folded] == ["LayerNorm", "LayerNorm"]
    assert result.folded[0].into == ("query", "key", "value")
    assert result.parameters_before - result.parameters_after == 4 * 8
    assert result.model.before.weight is None
    assert result.batchnorms_before == 0


def test_no_first_bias_is_made_for_a_norm():
    check(Block(biased=False), torch.randn(2, 5, 8), "behind")


@pytest.mark.parametrize(
    ("layers", "kinds"),
    [
        ([nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1)], ["GroupNorm"]),
        ([nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 3, padding=1)], []),
        (
            [nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.Conv2d(8, 4, 3)],
            ["InstanceNorm"],
        ),
        ([nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 4, 1)], []),
    ],
)
def test_norms_of_pictures(layers, kinds):
    model = trained(nn.Sequential(*layers))
    result = fold(model, (torch.randn(2, 3, 8, 8),))
    assert [item.kind for item in result.folded] == kinds


@pytest.mark.skipif(not hasattr(nn, "RMSNorm"), reason="torch 2.4 has it first")
def test_rms_norm_needs_no_bias():
    model = nn.Sequential(nn.Linear(6, 8), nn.RMSNorm(8), nn.Linear(8, 3, bias=False))
    check(model, torch.randn(4, 6), "1")


def test_an_affine_that_a_sum_also_reads_stays():
    class PostNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.layer = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x):
            y = self.norm(x)
            return y + self.layer(y)

    check(PostNorm(), torch.randn(2, 8))


def test_no_fold_norm_affine_turns_the_fold_off():
    result = fold(trained(Block()), (torch.randn(2, 5, 8),), norm_affine=False)
    assert not result.folded


def test_the_report_counts_them_on_a_line_of_their_own(tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\n\ndef net():\n"
        "    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)).eval()\n"
    )
    words = ("fold", "nets:net", "--input", "2x4")
    done = run(*words, cwd=tmp_path)
    assert "affine parameters of 1 LayerNorm" in done.stdout
    kept = run(*words, "--no-fold-norm-affine", "--json", cwd=tmp_path)
    assert json.loads(kept.stdout)["fold"]["folded"] == []
