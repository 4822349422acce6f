"""The artifacts of an unpacked bundle, in the order in which a device should try them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployfold.errors import UsageError
from deployfold.runtimes.tensorrt import TENSORRT

from .runtimes import runtime_of

_FASTEST = ("int4", "fp8", "int8", "bf16", "fp16", "fp32")


@dataclass(frozen=True)
class Artifact:
    """A file to run; ``sqnr_db`` is against the original, as the build measured it."""

    file: Path
    precision: str
    sqnr_db: float | None


@dataclass(frozen=True)
class Bundle:
    """The parts of ``manifest.json`` that running the model needs.

    Attributes:
        inputs: name and shape of each, in the model's order.
        labels: the names of the classes, empty where they are not known.
    """

    folder: Path
    name: str
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    preprocess: dict[str, Any] | None
    labels: tuple[str, ...]
    reference: Path
    artifacts: tuple[Artifact, ...]


def read_bundle(folder: Path) -> Bundle:
    """Read the manifest of an unpacked bundle.

    Raises:
        UsageError: it is missing or damaged.
    """
    path = folder / "manifest.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        labels = data.get("labels")
        text = (folder / labels).read_text(encoding="utf-8") if labels else ""
        return Bundle(
            folder=folder,
            name=data["name"],
            inputs=tuple((one["name"], tuple(one["shape"])) for one in data["inputs"]),
            preprocess=data.get("preprocess"),
            labels=tuple(text.splitlines()),
            reference=folder / data["reference"],
            artifacts=(*_listed(folder, data), *_finished(folder, data)),
        )
    except OSError as error:
        raise UsageError(
            f"Cannot read {error.filename or path}: {error.strerror}.",
            hint="Unpack the bundle as a whole, and leave run.py in it.",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} is damaged: {error!r}.", hint="Unpack the bundle again."
        ) from error


def _listed(folder: Path, data: dict[str, Any]) -> list[Artifact]:
    return [
        Artifact(folder / one["file"], one["precision"], _number(one))
        for one in data["artifacts"]
        if runtime_of(Path(one["file"])) is not None
    ]


def _finished(folder: Path, data: dict[str, Any]) -> list[Artifact]:
    """Engines that ``deployfold finish`` has built here since."""
    shipped = {one["file"] for one in data["artifacts"]}
    found = []
    for path in sorted(folder.glob(f"*{TENSORRT.suffix}")):
        sidecar = path.with_name(f"{path.name}.json")
        if path.name not in shipped and sidecar.is_file():
            precision = json.loads(sidecar.read_text(encoding="utf-8"))["precision"]
            found.append(Artifact(path, precision, None))
    return found


def order(artifacts: tuple[Artifact, ...], *, gpu: bool) -> list[Artifact]:
    """Engines first, the lowest precision before the others; then the ONNX.

    Args:
        gpu: whether ONNX Runtime has one here. On a CPU it computes fp16 in fp32, with casts, and
            int8 not as the build measured it, so there the fp32 ONNX goes before.
    """

    def key(artifact: Artifact) -> tuple[bool, int]:
        rank = _rank(_FASTEST, artifact.precision)
        onnx = runtime_of(artifact.file) is not TENSORRT
        if onnx:
            rank = _rank(("fp16", "bf16", "fp32"), artifact.precision) if gpu else -rank
        return onnx, rank

    return sorted(artifacts, key=key)


def _rank(order: tuple[str, ...], precision: str) -> int:
    return order.index(precision) if precision in order else len(order)


def _number(entry: dict[str, Any]) -> float | None:
    value = entry.get("sqnr_db")
    return None if value is None else float(value)  # "Infinity" is a string in JSON
