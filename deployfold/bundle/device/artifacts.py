"""The artifacts of an unpacked bundle, in the order in which a device should try them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployfold.compiling.sidecar import read_sidecar, sidecar_path
from deployfold.config.precision import Precision
from deployfold.errors import UsageError
from deployfold.runtimes.tensorrt import TENSORRT

from .runtimes import runtime_of

_NARROWEST_FIRST = tuple(one.value for one in reversed(Precision))
"""The precisions in the order in which engines are tried: narrower ones are faster."""
_COMPUTED_AS_WRITTEN = tuple(
    one.value for kind in ("cast", "none") for one in Precision if one.record.family == kind
)
"""The precisions in the order in which ONNX files are tried on a GPU, before the quantised ones."""


@dataclass(frozen=True)
class Artifact:
    """A file to run; ``sqnr_db`` is the build's comparison with the original."""

    file: Path
    precision: str
    sqnr_db: float | None


@dataclass(frozen=True)
class Bundle:
    """The parts of ``manifest.json`` that running the model needs.

    Attributes:
        inputs: name and shape of each input, in the model's order.
        preprocess: how an image becomes the input; ``None`` for other inputs.
        labels: the names of the classes; empty if unknown.
        reference: the file with the reference inference.
        artifacts: the files that can run here.
        chosen: the name of the file that ``--choose`` named; ``None`` without one.
    """

    name: str
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    preprocess: dict[str, Any] | None
    labels: tuple[str, ...]
    reference: Path
    artifacts: tuple[Artifact, ...]
    chosen: str | None = None


def read_bundle(folder: Path) -> Bundle:
    """Read the manifest of an unpacked bundle.

    Raises:
        UsageError: the manifest is missing or damaged.
    """
    path = folder / "manifest.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        labels = data.get("labels")
        text = (folder / labels).read_text(encoding="utf-8") if labels else ""
        return Bundle(
            name=data["name"],
            inputs=tuple((one["name"], tuple(one["shape"])) for one in data["inputs"]),
            preprocess=data.get("preprocess"),
            labels=tuple(text.splitlines()),
            reference=folder / data["reference"],
            artifacts=(*_listed(folder, data), *_finished(folder, data)),
            chosen=data.get("chosen"),
        )
    except OSError as error:
        raise UsageError(
            f"Cannot read {error.filename or path}: {error.strerror}.",
            hint="Unpack the whole bundle again, and run the run.py inside it.",
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
    """The engines that ``deployfold finish`` built here after unpacking."""
    shipped = {one["file"] for one in data["artifacts"]}
    found = []
    for path in sorted(folder.glob(f"*{TENSORRT.suffix}")):
        if path.name not in shipped and sidecar_path(path).is_file():
            found.append(Artifact(path, read_sidecar(path).precision or "", None))
    return found


def order(
    artifacts: tuple[Artifact, ...], *, gpu: bool, chosen: str | None = None
) -> list[Artifact]:
    """The artifacts in the order to try: engines first, the narrowest precision before the others.

    Args:
        gpu: whether ONNX Runtime can use a GPU here. On a CPU, the fp32 ONNX is first, because ONNX
            Runtime computes fp16 in fp32 with casts, and int8 not as the build measured it.
        chosen: a file that comes before the others of its runtime. A chosen ONNX does not come
            before the engines: a build without a GPU cannot have measured them.
    """

    def key(artifact: Artifact) -> tuple[bool, bool, int]:
        rank = _rank(_NARROWEST_FIRST, artifact.precision)
        onnx = runtime_of(artifact.file) is not TENSORRT
        if onnx:
            rank = _rank(_COMPUTED_AS_WRITTEN, artifact.precision) if gpu else -rank
        return onnx, artifact.file.name != chosen, rank

    return sorted(artifacts, key=key)


def _rank(order: tuple[str, ...], precision: str) -> int:
    return order.index(precision) if precision in order else len(order)


def _number(entry: dict[str, Any]) -> float | None:
    value = entry.get("sqnr_db")
    return None if value is None else float(value)  # "Infinity" is a string in JSON
