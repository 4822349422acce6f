"""Weights that no training meant, and dtypes that no engine computes in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deployfold.config.inputs import InputSpec
from deployfold.errors import LoadError
from deployfold.loading import in_single_precision, load_model


def saved(net: nn.Module, tmp_path) -> str:
    torch.save(net, tmp_path / "net.pt")
    return str(tmp_path / "net.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_checkpoint_is_refused(value, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(2, 2))
    net[0].weight.data[0, 0, 0, :2] = value
    net[1].bias.data[0] = value
    with pytest.raises(
        LoadError, match=r"^0\.weight holds .* in 2 of 108 values, and so do 1 more"
    ):
        load_model(saved(net, tmp_path))


def test_a_buffer_may_be_infinite_and_not_nan(tmp_path):
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
    load_model(saved(net, tmp_path))
    net[1].running_mean[1] = float("nan")
    with pytest.raises(LoadError, match=r"1\.running_mean holds NaN in 1 of 2 values"):
        load_model(saved(net, tmp_path))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_that_engines_lack_become_float32(dtype, tmp_path):
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to(dtype)
    loaded = load_model(saved(net, tmp_path))
    asked = InputSpec.parse([f"1x3:{str(dtype).removeprefix('torch.')}"])
    single, inputs = in_single_precision(loaded, asked)
    assert {value.dtype for value in single.module.state_dict().values()} == {
        torch.float32, torch.int64,
    }  # fmt: skip
    assert torch.equal(single.module[0].weight, net[0].weight.float())
    assert [tensor.dtype for tensor in inputs.tensors] == ["float32"]
    (note,) = single.notes
    assert str(dtype).removeprefix("torch.") in note
    assert "kept" not in note


def test_float16_modules_become_float32_like_bfloat16_ones(tmp_path):
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).half()
    half = load_model(saved(net, tmp_path))
    single, inputs = in_single_precision(half, InputSpec.parse(["1x3:float16"]))
    assert torch.equal(single.module[0].weight, net[0].weight.float())
    assert single.module[1].running_var.dtype == torch.float32
    assert [tensor.dtype for tensor in inputs.tensors] == ["float32"]
    (note,) = single.notes
    assert "float16 weights were converted to float32" in note
    assert "--fp16" in note
    assert "1x3:float16 is float32, too" in note


def test_a_float16_part_of_a_float32_model_and_torchscript_keep_their_dtype(tmp_path):
    mixed = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).half())
    loaded = load_model(saved(mixed, tmp_path))
    assert in_single_precision(loaded, None) == (loaded, None)
    torch.jit.save(torch.jit.script(nn.Linear(3, 2).double()), tmp_path / "net.ts.pt")
    script = load_model(str(tmp_path / "net.ts.pt"))
    assert in_single_precision(script, None) == (script, None)


def test_a_quantised_layer_is_refused_by_its_name(tmp_path):
    net = nn.Sequential(nn.ReLU(), nn.Linear(3, 2))
    net = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(LoadError, match=r"^1 is a quantised layer already"):
        load_model(saved(net, tmp_path), trust=True)


def test_integers_in_a_layer_of_torch_are_refused_and_in_an_own_one_are_said(
    tmp_path,
):
    codes = nn.Parameter(torch.ones(2, 4, dtype=torch.int8), requires_grad=False)
    net = nn.Sequential(nn.Linear(4, 2))
    net[0].weight = codes
    with pytest.raises(LoadError, match=r"^0\.weight is int8, so it is quantised already"):
        load_model(saved(net, tmp_path))
    own = nn.Module()
    own.codes = codes
    assert (
        "int8 parameters, which its own code turns into numbers"
        in load_model(saved(own, tmp_path)).notes[0]
    )
