"""All rules have one shape and give reasons, and other packages can add rules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from fold_nets import Net, folded
from torch import nn

from deployfold.errors import FoldError
from deployfold.folding import fold
from deployfold.folding.operators.partial import NotSeparable
from deployfold.folding.operators.table import OPERATORS
from deployfold.folding.rules import RULES, all_rules
from deployfold.folding.rules.request import CannotFold

EXAMPLE = Path(__file__).parent / "example_package"


def behind_square() -> nn.Module:
    """No built-in rule knows the square."""
    net = Net(
        lambda self, x: self.norm(self.conv(x).square()),
        conv=nn.Conv2d(3, 4, 1),
        norm=nn.BatchNorm2d(4),
    )
    nn.init.uniform_(net.norm.running_var, 0.5, 2.0)
    return net.eval()


def test_a_package_adds_a_rule_by_its_entry_point(monkeypatch):
    image = torch.randn(2, 3, 4, 4)
    folded(behind_square(), image, gone=0, left=1)
    monkeypatch.syspath_prepend(EXAMPLE)
    result = folded(behind_square(), image, gone=1)
    assert (result.folded[0].rule, result.folded[0].into) == (
        "through the square",
        ("conv",),
    )
    result = fold(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()).eval(), (image,))
    assert "no layer with a square stands before it" in result.left[0].reason
    sys.modules.pop("deployfold_example_rules")


def test_a_package_that_cannot_be_loaded_is_named(monkeypatch, tmp_path):
    information = tmp_path / "broken-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[deployfold.fold_rules]\nbad = nowhere:Rule\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FoldError, match=r"bad \(nowhere:Rule of broken\) cannot be loaded"):
        all_rules()


def test_every_rule_has_a_name_of_its_own():
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("kind", [CannotFold, NotSeparable])
def test_a_refusal_without_a_reason_is_itself_refused(kind):
    with pytest.raises(ValueError, match="needs a reason"):
        kind("")


def test_every_operator_of_the_table_exists_in_torch():
    """A misspelt name would never be met, and what it allows would never be folded."""
    import torchvision.ops  # noqa: F401 - it registers operators of its own

    namespaces = (torch.ops.aten, torch.ops.torchvision)
    missing = [name for name in OPERATORS if not any(hasattr(one, name) for one in namespaces)]
    assert missing == []
