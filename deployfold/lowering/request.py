"""The inputs of lowering: the samples of a build, and the user's options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from deployfold.config.accuracy import GuardSpec, KeepSpec
from deployfold.config.precision import Precision
from deployfold.data.labels import Label
from deployfold.exporting.storage import EXTERNAL_DATA_BYTES
from deployfold.reporting.row import Speedup
from deployfold.scoring import ScoredData
from deployfold.util.arrays import Array

Feed: TypeAlias = Mapping[str, Array]
"""The arrays of one inference by input name."""

RANGE_SAMPLES = 8
"""How many inputs, and how many calibration samples, the family ``cast`` runs at most.

The runs give the ranges of tensors and the accuracy.
"""


@dataclass(frozen=True)
class LoweringData:
    """The samples of a build.

    Attributes:
        inputs: the inputs that the build runs on; at least one.
        inputs_origin: the source of ``inputs`` in one phrase, such as ``random inputs``.
        inputs_real: whether ``inputs`` are the user's data rather than random numbers.
        labels: labels of the samples of ``inputs``.
        calibration: the samples that quantisation is fitted to; empty without ``--calib``.
        pictures: for each calibration sample, the number of its picture, or of another source of
            similar samples; empty if every sample has a different source.
        held_back: other samples of the same source, for the guard's measurements.
        held_back_pictures: the same for each held-back sample.
        held_back_labels: labels of the held-back samples.
        judged: samples that neither calibration nor the guard uses, for the reported accuracy. If
            empty, the report gives the accuracy on the held-back samples.
        judged_labels: labels of the judged samples.
        calibration_origin: the calibration source in one phrase.
        calibration_real: whether the calibration samples are the user's data rather than random
            numbers.
        digest: SHA-256 of the calibration data; ``None`` keeps the result out of the cache.
        batch: number of samples in one feed.
        scored: the samples of the task metrics; ``None`` without task metrics.
        largest: inputs at the largest shapes of the optimization profiles, for ranges only: sums
            grow with the shape. Empty if only the batch is dynamic.
    """

    inputs: Sequence[Feed]
    inputs_origin: str = "inputs"
    inputs_real: bool = False
    labels: tuple[Label, ...] | None = None
    calibration: Sequence[Feed] = ()
    pictures: tuple[int, ...] = ()
    held_back: Sequence[Feed] = ()
    held_back_pictures: tuple[int, ...] = ()
    held_back_labels: tuple[Label, ...] | None = None
    judged: Sequence[Feed] = ()
    judged_labels: tuple[Label, ...] | None = None
    calibration_origin: str = ""
    calibration_real: bool = False
    digest: str | None = None
    batch: int = 1
    scored: ScoredData | None = None
    largest: Sequence[Feed] = ()

    @property
    def range_inputs(self) -> list[Feed]:
        """The feeds that the family ``cast`` runs: some inputs, and some real calibration data."""
        more = self.calibration[:RANGE_SAMPLES] if self.calibration_real else ()
        return [*self.inputs[:RANGE_SAMPLES], *more]

    @property
    def range_origin(self) -> str:
        """A description of :attr:`range_inputs`, as the end of a sentence."""
        return "inputs" if self.real else "random inputs, since no others were given"

    @property
    def real(self) -> bool:
        """Whether some of :attr:`range_inputs` are the user's data."""
        return self.inputs_real or (self.calibration_real and bool(self.calibration))


@dataclass(frozen=True)
class Tuning:
    """How ``--tune`` times models on a GPU.

    Attributes:
        where: the GPU and the library, for the user and for the key of the cache.
        compare: builds and times two ONNX files side by side; the speed-up of the first.
    """

    where: str
    compare: Callable[[Path, Path], Speedup] = field(repr=False, compare=False)


@dataclass(frozen=True)
class LoweringOptions:
    """The user's choices for one lowering.

    Attributes:
        rest: the precision of everything that is not quantised, FP16 or FP32; family ``qdq`` only.
        residual: quantise the skips of residual sums as well; family ``qdq`` only.
        float_io: keep float32 inputs and outputs. ``False`` makes inputs and outputs float16 if the
            model has float16 tensors.
        external_threshold: size of the weights in bytes above which the weights go to a file beside
            the ONNX.
        tuning: keep Q/DQ nodes only where they make the engine faster; ``None`` keeps them all.
    """

    guard: GuardSpec = field(default_factory=GuardSpec)
    keep: KeepSpec = field(default_factory=KeepSpec)
    rest: Precision = Precision.FP16
    residual: bool = False
    float_io: bool = True
    external_threshold: int = EXTERNAL_DATA_BYTES
    tuning: Tuning | None = None
