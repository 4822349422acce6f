"""Inputs that are far from what a model's BatchNorms were trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deployfold.building.pipeline import build
from deployfold.config.make_spec import make_spec
from deployfold.folding.drift import FAR, drift_note, drifted


@pytest.fixture
def trained() -> tuple[nn.Module, torch.Tensor]:
    """A network with the running statistics of its own data."""
    torch.manual_seed(0)
    data = 0.5 + 0.2 * torch.randn(32, 3, 16, 16)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
    )
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the average over all batches
    net.train()
    with torch.no_grad():
        net(data)
    return net.eval(), data


def test_data_of_the_training_is_near(trained: tuple[nn.Module, torch.Tensor]) -> None:
    net, data = trained
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert drifted(net, [(data[:16],), (data[16:],)]) == []
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not net[1]._forward_pre_hooks


def test_pictures_without_normalisation_are_far(trained: tuple[nn.Module, torch.Tensor]) -> None:
    net, data = trained
    found = drifted(net, [(255 * data,)])
    assert [one.name for one in found] == ["1", "4"]
    assert found[0].shift > 100 * FAR
    assert found[0].spread == pytest.approx(255**2, rel=0.05)
    assert "at 1 (and 4)" in drift_note(found)


def test_the_numbers_are_those_of_the_definition(trained: tuple[nn.Module, torch.Tensor]) -> None:
    net, data = trained
    (first, *_) = drifted(net, [(4 * data,)])
    with torch.no_grad():
        given = net[0](4 * data).double()
    mean, variance = given.mean((0, 2, 3)), given.var((0, 2, 3))
    shift = (mean - net[1].running_mean).abs() / (net[1].running_var + net[1].eps).sqrt()
    ratio = (variance + net[1].eps) / (net[1].running_var + net[1].eps)
    assert first.shift == pytest.approx(float(shift.median()), rel=1e-6)
    assert first.spread == pytest.approx(float(ratio.median()), rel=1e-6)


def test_a_build_on_such_data_warns(trained: tuple[nn.Module, torch.Tensor], tmp_path) -> None:
    net, data = trained
    torch.save(net, tmp_path / "net.pt")
    for name, scale in (("near", 1), ("far", 255)):
        np.save(tmp_path / f"{name}.npy", (scale * data).numpy())
        written = {
            "input": ["1x3x16x16"], "input-data": str(tmp_path / f"{name}.npy"),
            "output": tmp_path / name, "no-engine": True, "no-measure": True,
        }  # fmt: skip
        report, _ = build(make_spec(str(tmp_path / "net.pt"), written, engine=False, measure=False))
        warned = any("far from what the model was trained on" in note for note in report.notes)
        assert warned == (name == "far")


def test_a_sample_that_the_model_refuses_ends_the_comparison(
    trained: tuple[nn.Module, torch.Tensor],
) -> None:
    """A warning must not stop a build, whose later stages name the sample."""

    class Picky(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.min() < 0:
                raise ValueError("a negative pixel")
            return super().forward(x)

    net, data = trained
    pixels = 255 * data.abs()
    assert drifted(Picky(*net), [(pixels,)])
    assert drifted(Picky(*net), [(pixels,), (-pixels,)]) == []


def test_a_model_without_batchnorms_is_not_run() -> None:
    assert drifted(nn.Linear(3, 2), [("no tensor",)]) == []
