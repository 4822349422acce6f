"""Measures the effect of folding BatchNorm: trains VGG16-bn and ResNet-50, and folds them.

    pip install scikit-learn
    python examples/bn_folding_study.py

Trains both for five epochs on scikit-learn's handwritten digits, enlarged; then folds them and
prints parameters and test accuracy before and after, whether every test image gets the same class,
and the latency of one image with its 95 % interval: in PyTorch, TorchScript, ONNX Runtime and,
where there is an NVIDIA GPU, TensorRT in FP16 and INT8. The study took 28 minutes on one thread of
a machine that had other work to do.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torchvision
from torch import nn

import deployfold
from deployfold.config.real_data import CalibrationSpec
from deployfold.reporting.report import Report
from deployfold.reporting.row import Row
from deployfold.targets.machine import detect

CLASSES = 10
TEST_SHARE = 0.2
BATCH = 32
Predict = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Digits:
    """Images as (N, 3, size, size) float32 from -1 to 1, and their classes."""

    train: torch.Tensor
    train_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor


def digits(size: int, samples: int, seed: int) -> Digits:
    """Scikit-learn's 8x8 digits, enlarged and shuffled; a fifth of them is kept for the test."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(seed).permutation(len(found.images))[:samples]
    grey = torch.from_numpy(found.images[order]).float()[:, None] / 8 - 1
    images = nn.functional.interpolate(grey, (size, size), mode="bilinear", align_corners=False)
    images = images.expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(found.target[order])
    split = round(len(order) * TEST_SHARE)
    return Digits(images[split:], labels[split:], images[:split], labels[:split])


def train(name: str, data: Digits, epochs: int, seed: int) -> nn.Module:
    """A network of torchvision, trained from its seeded initialisation, in evaluation mode."""
    torch.manual_seed(seed)
    net: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=CLASSES)
    net.train()
    steps = epochs * (len(data.train) // BATCH)
    # Kaiming's initialisation without skips, as VGG's, wants a smaller rate than ResNet's.
    rate = 3e-4 if name.startswith("vgg") else 1e-3
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=max(2, steps))
    for epoch in range(epochs):
        order = torch.randperm(len(data.train))
        total = 0.0
        for start in range(0, len(order) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            loss = nn.functional.cross_entropy(net(data.train[batch]), data.train_labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"{name}: epoch {epoch + 1}, loss {total * BATCH / len(order):.3f}", flush=True)
    return net.eval()


def classes(predict: Predict, images: torch.Tensor) -> torch.Tensor:
    """The class of every image, one image at a time, as the artifacts take them."""
    with torch.inference_mode():
        return torch.cat([predict(image[None]).argmax(dim=1) for image in images])


def artifacts(folder: Path, name: str) -> dict[str, Predict]:
    """What the build left, ready to run, by the names of the report's rows."""
    session = onnxruntime.InferenceSession(
        folder / f"{name}.onnx", providers=["CPUExecutionProvider"]
    )
    key = session.get_inputs()[0].name

    def onnx(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {key: images.numpy()})[0])

    return {
        "folded": torch.load(folder / f"{name}.folded.pt", weights_only=False),
        "torchscript": torch.jit.load(folder / f"{name}.ts.pt"),
        "onnxruntime": onnx,
    }


def study(name: str, data: Digits, args: argparse.Namespace, work: Path) -> None:
    """Train one network, build it, and print what came of it."""
    net = train(name, data, args.epochs, args.seed)
    checkpoint = work / f"{name}.pt"
    torch.save(net, checkpoint)
    gpu = detect().gpu
    calibration = None
    if gpu is not None:
        np.savez(work / "train.npz", input=data.train[:512].numpy())
        calibration = CalibrationSpec(source=str(work / "train.npz"))
    report = deployfold.build(
        checkpoint,
        output=work / name,
        inputs=[f"input=1x3x{args.size}x{args.size}"],
        fp16=gpu is not None,
        calibration=calibration,
        engine=gpu is not None,
        max_seconds=args.seconds,
        threads=args.threads,
        seed=args.seed,
    )
    before = classes(net, data.test)
    accuracy = {"pytorch": share(before == data.test_labels)}
    changed = {}
    for row, predict in artifacts(work / name, name).items():
        after = classes(predict, data.test)
        accuracy[row] = share(after == data.test_labels)
        changed[row] = int((after != before).sum())
    print(summary(name, report, accuracy, changed, len(before)))
    if gpu is None:
        print("TensorRT FP16 and INT8: not measured, there is no NVIDIA GPU here.\n")


def share(hits: torch.Tensor) -> float:
    """The share of true values."""
    return float(hits.float().mean())


def summary(
    name: str, report: Report, accuracy: dict[str, float], changed: dict[str, int], images: int
) -> str:
    """Everything as Markdown."""
    fold = report.fold
    assert fold is not None
    fewer = fold.parameters_after - fold.parameters_before
    lines = [
        f"\n## {name}\n",
        f"BatchNorm layers folded: {len(fold.folded)} of {fold.batchnorm_before}. Parameters: "
        f"{fold.parameters_before:,} before, {fold.parameters_after:,} after ({fewer:,}).\n",
        "| artifact | test accuracy | other class than before | latency of one image, ms [95 %] | "
        "speed-up |",
        "|---|---|---|---|---|",
    ]
    for row in report.rows:
        other = "" if row.name not in changed else f"{changed[row.name]} of {images} images"
        right = f"{accuracy[row.name]:.2%}" if row.name in accuracy else ""
        lines.append(f"| {row.title} | {right} | {other} | {latency(row)} | {speedup(row)} |")
    return "\n".join(lines) + "\n"


def latency(row: Row) -> str:
    """The median with its interval, or why there is none."""
    if row.latency is None:
        return f"not measured: {row.not_measured}"
    found = row.latency
    low, high = found.median_low_ms, found.median_high_ms
    if low is None or high is None or math.isinf(high):
        return f"{found.median_ms:.3g}, too few rounds for an interval"
    return f"{found.median_ms:.3g} [{low:.3g}, {high:.3g}]"


def speedup(row: Row) -> str:
    """Against the original, with its interval."""
    found = row.latency.speedup if row.latency is not None else None
    if found is None:
        return ""
    interval = f" [{found.low:.2f}, {found.high:.2f}]" if found.bounded else ""
    return f"{found.value:.2f}{interval}"


def main(words: Sequence[str] | None = None) -> None:
    """Run the study that the command line describes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["vgg16_bn", "resnet50"])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--samples", type=int, default=1797, help="digits to use, of 1,797")
    parser.add_argument("--seconds", type=float, default=30.0, help="of measuring each model")
    parser.add_argument("--threads", type=int, help="of the CPU; those of torch by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="keep checkpoints and builds here")
    args = parser.parse_args(words)
    # TorchScript is one of the things that are measured here.
    warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    data = digits(args.size, args.samples, args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        work = args.output or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for name in args.models:
            study(name, data, args, work)


if __name__ == "__main__":
    main()
