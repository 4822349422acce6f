"""Models in quantisation-aware training by torch.ao: no code moves on the way into the file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.ao.quantization as quantization
from onnx import numpy_helper
from qat_nets import SHAPE, SYMMETRIC, prepared, trained, without_configurations
from torch import nn
from torch.ao.quantization._learnable_fake_quantize import _LearnableFakeQuantize

from deployfold.building.pipeline import build
from deployfold.config.make_spec import make_spec
from deployfold.errors import LoadError
from deployfold.loading import load_model
from deployfold.loading.checks import checked
from deployfold.loading.model import LoadedModel
from deployfold.loading.quantised_training import exportable, frozen

LAYERS = ("stem", "first", "second", "hidden", "head")


def x86() -> nn.Module:
    """A model as a user's script makes it."""
    return trained()


def symmetric() -> nn.Module:
    """The same with another configuration."""
    return trained(SYMMETRIC)


@pytest.fixture(scope="module", params=["x86", "symmetric"])
def built(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """The model as it is trained, its observers off, and the ONNX of its build."""
    source = f"{__name__}:{request.param}"
    flags = {"no-engine": True, "no-measure": True, "input": ["x".join(map(str, SHAPE))]}
    output = tmp_path_factory.mktemp(request.param)
    report, directory = build(make_spec(source, {**flags, "output": output}))
    assert report.fold is not None
    assert (report.fold.batchnorm_before, len(report.fold.folded)) == (2, 2)
    assert {row.name for row in report.rows} == {"pytorch", "onnxruntime"}
    net = globals()[request.param]().eval()
    return net.apply(quantization.disable_observer), directory / f"{request.param}.onnx"


def codes_of(layer: Any) -> np.ndarray:
    """The codes that a layer of torch.ao computes with."""
    weight, norm = layer.weight, getattr(layer, "bn", None)
    columns = [-1, *[1] * (weight.dim() - 1)]
    if norm is not None:
        weight = weight * (norm.weight / (norm.running_var + norm.eps).sqrt()).reshape(columns)
    given = layer.weight_fake_quant
    return (given(weight) / given.scale.reshape(columns)).round().detach().numpy()


def stored_codes(path: Path) -> dict[str, np.ndarray]:
    graph = onnx.load(path).graph
    arrays = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    found = [arrays[node.input[0]] for node in graph.node if node.input[0] in arrays]
    layers = (node for node in graph.node if node.op_type in ("Conv", "Gemm"))
    assert [node.op_type for node in graph.node].count("BatchNormalization") == 0
    assert len(found) == len(LAYERS)
    makers = {node.output[0]: node for node in graph.node}
    names = dict(zip(LAYERS, layers, strict=True))
    return {name: arrays[makers[node.input[1]].input[0]] for name, node in names.items()}


def test_no_code_of_a_weight_moves(built: tuple[nn.Module, Path]) -> None:
    net, path = built
    for name, codes in stored_codes(path).items():
        assert codes.dtype == np.int8
        np.testing.assert_array_equal(codes, codes_of(net.get_submodule(name)), err_msg=name)


def test_the_file_computes_as_the_model_in_and_beyond_its_ranges(
    built: tuple[nn.Module, Path],
) -> None:
    """Codes of activations saturate where those of training do, not where int8 does."""
    net, path = built
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options)
    x = torch.randn(64, *SHAPE) * torch.logspace(-1, 1, 64).reshape(-1, 1, 1, 1, 1)
    with torch.no_grad():
        expected = torch.cat([net(one) for one in x]).numpy()
    found = np.concatenate([session.run(None, {"input": one.numpy()})[0] for one in x])
    step = float(net.head.activation_post_process.scale)
    codes = np.rint((found - expected) / step)
    assert np.abs(found - expected - codes * step).max() < step / 100
    assert (codes != 0).mean() < 0.02, "a value between two codes may take either"


def test_state_dicts_and_whole_modules_are_the_same_model(tmp_path: Path, monkeypatch: Any) -> None:
    net, x = trained(), torch.randn(SHAPE)
    torch.save(net.state_dict(), tmp_path / "state.pt")
    body = nn.Sequential(net.quantise, net.stem, net.first, net.second)  # no class of the user
    torch.save(without_configurations(copy.deepcopy(body)), tmp_path / "whole.pt")
    expected = net.eval().apply(quantization.disable_observer)(x)
    state = load_model(str(tmp_path / "state.pt"), arch="qat_nets:prepared")
    whole = load_model(str(tmp_path / "whole.pt"))  # needs no --allow-global
    for _ in range(2):  # no observer moves a scale
        torch.testing.assert_close(state.module(x), expected, rtol=0, atol=0)
        torch.testing.assert_close(whole.module(x), body(x), rtol=0, atol=0)
    assert any("observers still ran" in note for note in state.notes)


def test_a_channel_of_one_sign_takes_the_symmetric_scale() -> None:
    """torch.ao's fused module gives it a zero point, against its own observer."""
    net = trained()
    with torch.no_grad():
        net.stem.weight[3].abs_()
        net.stem.weight_fake_quant.activation_post_process.reset_min_max_vals()
        net(torch.randn(8, *SHAPE[1:]))
    assert net.stem.weight_fake_quant.zero_point.tolist() == [0, 0, 0, -128, 0, 0, 0, 0]
    fixed = frozen(net)[0]
    found, notes = exportable(fixed)
    assert [note.partition(" were")[0] for note in notes] == ["stem.weight: 1 of 8 channels"]
    scale = found.stem.weight_fake_quant.scale
    torch.testing.assert_close(scale[3], net.stem.weight[3].max() / 127.5)
    others = [index for index in range(8) if index != 3]
    torch.testing.assert_close(scale[others], net.stem.weight_fake_quant.scale[others])
    with torch.no_grad():
        difference = (found.stem(torch.ones(SHAPE)) - fixed.stem(torch.ones(SHAPE))).abs()
    assert difference.max() < 27 * scale[3]


def test_what_tensorrt_cannot_have_is_refused() -> None:
    wide = quantization.get_default_qat_qconfig("qnnpack")
    with pytest.raises(LoadError, match=r"quantise\.\w+ rounds .* 0 to 255 with the zero point \d"):
        exportable(frozen(trained(wide))[0])
    with pytest.raises(LoadError, match=r"stem\.weight has seen no data"):
        exportable(frozen(prepared())[0])
    net = nn.Sequential(_LearnableFakeQuantize(quantization.MovingAverageMinMaxObserver))
    with pytest.raises(LoadError, match="0 is a fake-quantise module of a kind") as caught:
        checked(LoadedModel(net, "factory", "net", None, "net:make"))
    assert "dynamo=False" in str(caught.value.hint)
