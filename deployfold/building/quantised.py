"""Quantising for a build: which samples it is done on, and whether it was done before."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnxruntime

from deployfold import __version__
from deployfold.config.precision import Precision
from deployfold.config.settings import BuildSpec
from deployfold.data.samples import SampleForm
from deployfold.errors import UsageError
from deployfold.events import Emit, StageProgress
from deployfold.exporting.session import Array
from deployfold.lowering import KeptNode, LayerReport, QdqArtifact, lower_qdq
from deployfold.lowering.cache import LoweringCache, cache_key, default_cache_directory
from deployfold.util.files import sha256

from .load import Loaded

QUANTISED = (Precision.INT8, Precision.FP8, Precision.INT4)
"""The precisions of Q/DQ nodes; the others change the type of tensors."""


@dataclass(frozen=True)
class QuantisationData:
    """What a quantised model is made with and measured on.

    Attributes:
        calibration, held_back: feeds by input name.
        labels: of the held-back samples.
        samples: how many are held back; a feed holds a batch of them.
        origin: where they are from in one phrase.
        calibrated: the samples are real; weights are fitted to them.
        guarded: the held-back ones are no calibration samples, so that the accuracy can be held to
            a limit on them.
        digest: of all of it; ``None`` for what is not worth a place in the cache.
    """

    calibration: tuple[Mapping[str, Array], ...]
    held_back: tuple[Mapping[str, Array], ...]
    labels: tuple[int, ...] | None
    samples: int
    origin: str
    calibrated: bool
    guarded: bool
    digest: str | None

    @property
    def notes(self) -> tuple[str, ...]:
        """The note for the report. Uncalibrated models need none: the table marks them."""
        if not self.guarded:
            how = "weights rounded to nearest without calibration data"
            return (f"{how}, measured on {self.origin}",)
        return (f"calibrated on {self.origin}",) if self.calibrated else ()


def quantisation_data(loaded: Loaded, precision: Precision) -> QuantisationData:
    """The calibration data of a build; for weights alone, which can do without, else its inputs.

    Raises:
        UsageError: INT8 or FP8 has no data.
    """
    data = loaded.calibration
    batch = SampleForm.of(loaded.inputs).batch
    if data is None:
        if precision is not Precision.INT4:
            raise UsageError(f"{precision.value.upper()} needs data to calibrate on.")
        feeds = tuple(loaded.feeds)
        count, origin = len(feeds) * batch, loaded.input_data
        return QuantisationData(feeds, feeds, loaded.labels, count, origin, False, False, None)
    return QuantisationData(
        data.calibration, data.held_back, data.labels, len(data.held_back) * batch, data.origin,
        data.calibrated, True, data.digest,
    )  # fmt: skip


def quantise(
    onnx: Path,
    path: Path,
    precision: Precision,
    data: QuantisationData,
    spec: BuildSpec,
    emit: Emit,
) -> tuple[QdqArtifact, bool]:
    """Quantise, or take what an earlier run made of the same model, data and settings.

    Raises:
        AccuracyError: the accuracy cannot be kept.
        ExportError: as :func:`~deployfold.lowering.lower_qdq`.
    """
    if data.digest is None:
        return _lower(onnx, path, precision, data, spec, emit), False
    cache, key = LoweringCache(default_cache_directory()), _key(onnx, precision, data, spec)
    facts = cache.get(key, path)
    if facts is not None:
        return _artifact(path, facts), True
    artifact = _lower(onnx, path, precision, data, spec, emit)
    cache.put(key, path, dataclasses.asdict(artifact) | {"path": ""})
    return artifact, False


def _lower(
    onnx: Path,
    path: Path,
    precision: Precision,
    data: QuantisationData,
    spec: BuildSpec,
    emit: Emit,
) -> QdqArtifact:
    name = precision.value
    return lower_qdq(
        onnx,
        path,
        precision=precision,
        calibration=data.calibration,
        held_back=data.held_back,
        labels=data.labels,
        # Random ranges are all that int8 and fp8 have then; a weight is better off without.
        fitted=data.calibrated or precision is not Precision.INT4,
        residual=spec.residual_qdq,
        fallback=spec.int8_rest,
        guard=spec.guard if data.guarded else replace(spec.guard, enabled=False),
        float_io=spec.float_io,
        progress=lambda detail, done=None: emit(StageProgress("lower", f"{name}: {detail}", done)),
    )


def _key(onnx: Path, precision: Precision, data: QuantisationData, spec: BuildSpec) -> str:
    return cache_key(
        {
            "onnx": sha256(onnx),
            "data": str(data.digest),
            "guard": repr(spec.guard),
            "settings": f"{precision.value} {spec.int8_rest.value} {spec.float_io} "
            f"{spec.residual_qdq}",
            "versions": f"deployfold {__version__} onnxruntime {onnxruntime.__version__}",
        }
    )


def _artifact(path: Path, facts: Mapping[str, Any]) -> QdqArtifact:
    plain = dict(facts)
    plain |= {
        "path": path,
        "precision": Precision(plain["precision"]),
        "fallback": Precision(plain["fallback"]),
        "layers": tuple(LayerReport(**layer) for layer in plain["layers"]),
        "kept": tuple(KeptNode(**node) for node in plain["kept"]),
        "notes": tuple(plain["notes"]),
    }
    return QdqArtifact(**plain)
