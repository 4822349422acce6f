"""Running statistics that are replaced by the statistics of real data before folding."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from fold_nets import Net, outputs_of, randomise
from torch import nn

from deployfold.building.fold_file import fold_file
from deployfold.config.make_spec import spec_of_keywords
from deployfold.errors import FoldError, UsageError
from deployfold.folding import fold
from deployfold.folding.reestimate import reestimated


def net() -> nn.Module:
    torch.manual_seed(0)
    return randomise(
        nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 6, 3, groups=2), nn.BatchNorm2d(6), nn.Tanh(), nn.AvgPool2d(2),
            nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4, affine=False),
        )
    )  # fmt: skip


def samples(count: int = 12, batch: int = 1) -> list[tuple[torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    data = 2 + 3 * torch.randn(count, 3, 9, 9, generator=generator)
    return [(item,) for item in data.split(batch)]


def layer_by_layer(model: nn.Sequential, data: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """The definition in float64: each layer's statistics first, then its output."""
    found, x = [], data.double()
    for layer in model.double():
        if isinstance(layer, nn.BatchNorm2d):
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
            found.append((mean.numpy(), var.numpy()))
            layer.running_mean, layer.running_var = mean, var
        with torch.no_grad():
            x = layer(x)
    return found


@pytest.mark.parametrize("batch", [1, 4])
def test_the_statistics_are_those_of_each_layer_in_evaluation_mode(batch):
    model, data = net(), samples(batch=batch)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = reestimated(model, data)
    assert result.names == ("1", "4", "8")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    expected = layer_by_layer(net(), torch.cat([item for (item,) in data]))
    for name, (mean, variance) in zip(result.names, expected, strict=True):
        layer = result.model.get_submodule(name)
        np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(layer.running_var, variance, rtol=1e-5)


def test_a_model_in_half_precision_runs_in_float32():
    wide, data = net(), samples()
    half = net().half()
    dtypes = set()
    hook = nn.modules.module.register_module_forward_pre_hook(
        lambda layer, arguments: dtypes.add(arguments[0].dtype)
    )
    result = reestimated(half, [(item.half(),) for (item,) in data])
    hook.remove()
    assert dtypes == {torch.float32}
    expected = reestimated(wide, data)
    for name in result.names:
        found, exact = result.model.get_submodule(name), expected.model.get_submodule(name)
        assert found.running_var.dtype == torch.float16
        torch.testing.assert_close(found.running_var.float(), exact.running_var, rtol=5e-3, atol=0)
    with pytest.raises(FoldError, match=r"exceed what torch\.float16 holds"):
        reestimated(half, [(item.half() * 1000,) for (item,) in data])


def test_a_model_that_takes_one_sample_at_a_time_settles_at_the_same():
    def forward(self, x):
        assert x.shape[0] == 1
        return self.body(x)

    one = reestimated(Net(forward, body=net()).eval(), samples()).model.body
    whole = reestimated(net(), samples()).model
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_a_norm_that_reads_its_own_output_settles_at_its_own_statistics():
    model = Net(
        lambda self, x: self.norm(self.two(self.norm(self.one(x)).relu())),
        one=nn.Conv2d(3, 4, 3),
        two=nn.Conv2d(4, 4, 3),
        norm=nn.BatchNorm2d(4),
    )
    result = reestimated(randomise(model), samples())
    seen = []
    result.model.norm.register_forward_pre_hook(lambda _, x: seen.append(x[0].transpose(0, 1)))
    for item in samples():
        outputs_of(result.model, *item)
    values = torch.cat([one.flatten(1) for one in seen], 1)
    torch.testing.assert_close(result.model.norm.running_mean, values.mean(1), rtol=0, atol=2e-2)
    torch.testing.assert_close(result.model.norm.running_var, values.var(1), rtol=1e-2, atol=0)


def test_fold_says_that_the_function_has_changed_and_proves_the_new_one():
    model = net()
    result = fold(model, samples()[0], reestimate_bn=samples())
    assert result.batchnorms_after == 0
    assert result.notes[0].startswith("This is NOT the function of the checkpoint")
    assert "3 BatchNorms were replaced by those of 12 samples" in result.notes[0]
    expected = reestimated(model, samples()).model
    for item in samples():
        torch.testing.assert_close(
            outputs_of(result.model, *item), outputs_of(expected, *item), rtol=1e-4, atol=1e-4
        )
        gap = (outputs_of(result.model, *item)[0] - outputs_of(model, *item)[0]).abs().max()
        assert gap > 0.1


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (net(), samples(4), "cannot be estimated from 4 samples"),
        (nn.Conv2d(3, 4, 3), samples(), "nothing to re-estimate: the model has no BatchNorm"),
        (net().train(), samples(), "nothing to re-estimate: the model has no BatchNorm"),
        (
            Net(lambda self, x: x.relu(), norm=nn.BatchNorm2d(3)).eval(),
            samples(),
            "the model calls no BatchNorm on this data",
        ),
        (net(), [(item * torch.nan,) for (item,) in samples()], "statistics of 1 cannot be"),
        (net(), [(torch.randn(1, 5, 9, 9),)] * 8, "forward pass fails on the example input 1x5"),
    ],
)
def test_the_error_says_why_statistics_cannot_be_estimated(model, data, message):
    with pytest.raises(FoldError, match=message):
        fold(model, samples()[0], reestimate_bn=data)


def test_torchscript_is_refused():
    scripted = torch.jit.trace(net(), samples()[0])
    with pytest.raises(FoldError, match="is TorchScript"):
        fold(scripted, samples()[0], reestimate_bn=samples())


def test_the_command_writes_the_new_model_and_reports_it(tmp_path):
    torch.save(net(), tmp_path / "net.pt")
    np.save(tmp_path / "data.npy", torch.cat([item for (item,) in samples()]).numpy())
    written = {"reestimate_bn": str(tmp_path / "data.npy")}
    report = fold_file(spec_of_keywords(str(tmp_path / "net.pt"), written), tmp_path / "out.pt")
    saved = torch.load(tmp_path / "out.pt", weights_only=False)
    expected = reestimated(net(), samples()).model
    torch.testing.assert_close(
        outputs_of(saved, *samples()[0]), outputs_of(expected, *samples()[0]), rtol=1e-4, atol=1e-4
    )
    told = json.loads(report.to_json())["fold"]["reestimation"]
    assert told in report.notes
    assert "The data: 12 of 12 samples of data.npy." in told


def test_an_onnx_and_random_data_are_refused(tmp_path):
    with pytest.raises(UsageError, match="random inputs have other statistics"):
        spec_of_keywords("net.pt", {"reestimate_bn": "random"})
    file = tmp_path / "net.onnx"
    torch.onnx.export(net(), samples()[0], file, dynamo=False)
    np.save(tmp_path / "data.npy", torch.cat([item for (item,) in samples()]).numpy())
    spec = spec_of_keywords(str(file), {"reestimate_bn": str(tmp_path / "data.npy")})
    with pytest.raises(UsageError, match="an ONNX holds no PyTorch model"):
        fold_file(spec, None)
