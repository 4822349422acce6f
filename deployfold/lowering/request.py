"""What lowering is given: the samples it may look at, and the options of the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from deployfold.config.accuracy import GuardSpec, KeepSpec
from deployfold.config.precision import Precision
from deployfold.exporting.session import Array
from deployfold.exporting.storage import EXTERNAL_DATA_BYTES

Feed: TypeAlias = Mapping[str, Array]
"""The arrays of one inference by input name."""

RANGE_SAMPLES = 8
"""Inputs of each kind that the family ``cast`` takes ranges from and is measured on."""


@dataclass(frozen=True)
class LoweringData:
    """The samples of a build.

    Attributes:
        inputs: what the build runs on; at least one.
        inputs_origin: these in one phrase, such as ``random inputs``.
        inputs_real: they are the user's data, not random numbers.
        labels: classes of the samples of ``inputs``.
        calibration: what quantisation is fitted to; empty without ``--calib``.
        pictures: of each calibration sample, the number of the picture, or of another source of
            samples that are alike; empty where every sample is from another.
        held_back: other samples of the same source, which the guard measures on.
        held_back_labels: classes of the held-back samples.
        judged: samples that neither calibration nor the guard looks at, for the accuracy that is
            reported; empty to report that of the held-back ones.
        judged_labels: classes of these.
        calibration_origin: the calibration source in one phrase.
        calibration_real: it is the user's data, not random numbers.
        digest: SHA-256 of the calibration data; ``None`` keeps the result out of the cache.
        batch: samples in one feed.
    """

    inputs: Sequence[Feed]
    inputs_origin: str = "inputs"
    inputs_real: bool = False
    labels: tuple[int, ...] | None = None
    calibration: Sequence[Feed] = ()
    pictures: tuple[int, ...] = ()
    held_back: Sequence[Feed] = ()
    held_back_labels: tuple[int, ...] | None = None
    judged: Sequence[Feed] = ()
    judged_labels: tuple[int, ...] | None = None
    calibration_origin: str = ""
    calibration_real: bool = False
    digest: str | None = None
    batch: int = 1

    @property
    def range_inputs(self) -> list[Feed]:
        """The feeds that the family ``cast`` looks at: some inputs, and some calibration data."""
        more = self.calibration[:RANGE_SAMPLES] if self.calibration_real else ()
        return [*self.inputs[:RANGE_SAMPLES], *more]

    @property
    def real(self) -> bool:
        """Some of :attr:`range_inputs` are the user's data."""
        return self.inputs_real or (self.calibration_real and bool(self.calibration))


@dataclass(frozen=True)
class LoweringOptions:
    """What the user chose.

    Attributes:
        guard: the accuracy to keep.
        keep: nodes that must stay in fp32.
        rest: of the family ``qdq``, the precision of what is not quantised: FP16 or FP32.
        residual: of the family ``qdq``, quantise the skips of residual sums as well.
        float_io: keep float32 inputs and outputs; ``False`` makes them float16 where the model has
            float16 tensors.
        external_threshold: bytes of weights above which they go to a file beside the ONNX.
    """

    guard: GuardSpec = field(default_factory=GuardSpec)
    keep: KeepSpec = field(default_factory=KeepSpec)
    rest: Precision = Precision.FP16
    residual: bool = False
    float_io: bool = True
    external_threshold: int = EXTERNAL_DATA_BYTES
