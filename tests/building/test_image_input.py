"""``--image-input`` of models that are graphs: ONNX, TorchScript, .pt2 programs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_files as files
import onnxruntime
import pytest
import torch
from torch import nn

from deployfold.building.pipeline import build
from deployfold.config.make_spec import make_spec
from deployfold.errors import UsageError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)  # in the order of the model's channels
FLAGS = {"mean": "0.5,0.4,0.3", "std": "0.2,0.25,0.3", "no-engine": True, "no-measure": True}


def _net(opset: int, *, layout: str = "nchw", groups: int = 1) -> onnx.ModelProto:
    """Two convolutions, the first one without padding."""
    g = files.GraphWriter(opset)
    x = "images" if layout == "nchw" else g.node("Transpose", "images", perm=[0, 3, 1, 2])
    x = g.block(x, 3 // groups, 6, pads=[0] * 4, group=groups)
    g.rename(g.conv(x, 6, 4), "y")
    shape = ["N", 3, 16, 16] if layout == "nchw" else ["N", 16, 16, 3]
    return g.model({"images": (files.FLOAT, shape)}, {"y": (files.FLOAT, ["N", 4, 14, 14])})


def _run(path: Path, array: Any) -> Any:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: array})[0].astype(np.float64)


@pytest.mark.parametrize(
    ("model", "layout", "channels", "front", "note"),
    [
        (_net(13), "nchw", "bgr", [],
         "the scale, the channel order and the mean went into '/Conv_0'."),
        (_net(9, groups=3), "nhwc", "bgr", ["Sub", "Gather"],
         "the scale went into '/Conv_0'; the channel order and the mean stay operations."),
        (_net(11, layout="nhwc"), "nhwc", "rgb", [],
         "the scale and the mean went into '/Conv_1'."),
        (files.resnet(dtype=np.float16), "nhwc", "bgr", ["Sub"],
         "the scale and the channel order went into '/Conv_0'; the mean stays an operation: "
         "'/Conv_0' pads with zeros."),
    ],
)  # fmt: skip
def test_frames_give_what_normalised_floats_give(
    model: onnx.ModelProto, layout: str, channels: str, front: list[str], note: str, tmp_path: Path
) -> None:
    source = files.save(model, tmp_path / "net.onnx")
    values = {**FLAGS, "output": tmp_path / "out", "image-input": layout, "channels": channels}
    report, directory = build(make_spec(str(source), values))
    graph = onnx.load(directory / "net.onnx").graph
    (value,) = graph.input
    assert (value.name, value.type.tensor_type.elem_type) == (
        model.graph.input[0].name, onnx.TensorProto.UINT8,
    )  # fmt: skip
    moved = ["Cast", "Transpose"] if layout == "nhwc" else ["Cast"]
    names = [node.op_type for node in graph.node]
    assert names[: names.index("Conv")] == [*moved, *front]
    assert (
        f"Raw uint8 frames go in ({layout.upper()}); of the normalisation, {note}" in report.notes
    )
    frames = np.random.default_rng(0).integers(0, 256, report.inputs[0].shape, np.uint8)
    pixels = frames if layout == "nchw" else frames.transpose(0, 3, 1, 2)
    pixels = pixels[:, ::-1] if channels == "bgr" else pixels
    mean, std = (np.reshape(one, (1, 3, 1, 1)) for one in (MEAN, STD))
    floats = (pixels / 255 - mean) / std
    given = model.graph.input[0].type.tensor_type
    floats = floats if given.shape.dim[1].dim_value == 3 else floats.transpose(0, 2, 3, 1)
    half = given.elem_type == files.HALF
    expected = _run(source, np.ascontiguousarray(floats, np.float16 if half else np.float32))
    found = _run(directory / "net.onnx", frames)
    assert np.abs(found - expected).max() < (2e-3 if half else 1e-5) * np.abs(expected).max()


@pytest.mark.parametrize(
    ("suffix", "note"),
    [
        (".ts.pt", "nothing went into the layers behind; the scale, the channel order and the mean "
         "stay operations."),
        pytest.param(
            ".pt2", "the scale went into the layers behind; the channel order and the mean stay "
            "operations.", marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_graphs_of_torch_keep_what_no_layer_takes(suffix: str, note: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()).eval()
    source = tmp_path / f"net{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if suffix == ".pt2":
            torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 9, 8),)), source)
        else:
            torch.jit.script(net).save(source)
    values = {**FLAGS, "output": tmp_path / "out", "image-input": "nhwc", "channels": "bgr"}
    report, directory = build(make_spec(str(source), {**values, "input": ("1x3x9x8",)}))
    assert f"Raw uint8 frames go in (NHWC); of the normalisation, {note}" in report.notes
    frames = np.random.default_rng(0).integers(0, 256, (1, 9, 8, 3), np.uint8)
    floats = (frames[..., ::-1] / 255 - MEAN) / STD
    with torch.no_grad():
        expected = net.double()(torch.from_numpy(floats.transpose(0, 3, 1, 2).copy())).numpy()
        found = torch.jit.load(directory / "net.ts.pt")(torch.from_numpy(frames)).numpy()
    for one in (found, _run(directory / "net.onnx", frames)):
        assert np.abs(one - expected).max() < 1e-5 * np.abs(expected).max()


def test_an_opset_without_broadcasting_is_refused(tmp_path: Path) -> None:
    g = files.GraphWriter(6)
    g.rename(g.conv("images", 3, 4), "y")
    shape = [1, 3, 8, 8]
    model = g.model({"images": (files.FLOAT, shape)}, {"y": (files.FLOAT, [1, 4, 8, 8])})
    source = files.save(model, tmp_path / "net.onnx")
    values = {**FLAGS, "output": tmp_path / "out", "image-input": "nchw"}
    with pytest.raises(UsageError, match="--image-input needs opset 7, and this ONNX has 6"):
        build(make_spec(str(source), values))
