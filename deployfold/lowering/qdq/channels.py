"""Chooses whether to scale channels, recentre activations and cut off values, by whole models.

The rewrites keep the function of a model, and change its rounding errors in int8. Their factors
come from the calibration samples. If channels take different values on other samples, the rewrites
cost more than they gain: EfficientNet-Lite0, equalised with 28 crops of seven photographs, had
18 dB on other photographs, and 23 dB without equalisation. Therefore each variant is rounded to
nearest, with biases corrected, and compared with the fp32 model on samples of pictures outside the
calibration data.

Whether ranges may cut values off is decided in the same way. No layer can tell: what a detector
finds lies in few values, which the ranges with the least error of most layers cut off. Pictures
with something to find may be rare, so each fold of the calibration judges the ranges of the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from deployfold.exporting.storage import SCRATCH_THRESHOLD, write_model
from deployfold.lowering.accuracy import Measurer
from deployfold.lowering.progress import Progress, part_of
from deployfold.lowering.request import Feed

from .equalise import equalise
from .fit import NEAREST
from .formats import Format
from .layers import Layer
from .quantise import quantise_layers
from .recentre import recentre
from .rest import build
from .sample_split import SampleSplit
from .smooth import smooth

COMPARED = 16
"""Most held-back samples for the comparison of channels."""

CALIBRATED = 8
"""Most samples for the ranges and biases of the compared variants, and of each set that judges
ranges."""

CLEARLY = 0.5
"""Decibels on other pictures for which ranges hold all values of the samples. Ranges with the least
error of the layers stay where the difference is smaller: MobileNetV2, whose variants are equally
near when rounded to nearest, is 1 dB nearer with them once its weights are fitted."""

_Step = Callable[[ir.Model, Sequence[Layer], Sequence[Feed]], int]

VARIANTS: tuple[tuple[_Step, ...], ...] = ((), (recentre,), (equalise, recentre), (smooth,))
"""The variants to compare. The first changes nothing, and stays if no other is better."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Compares variants of a model, rounded to nearest, with the fp32 model ``source``.

    The methods raise :class:`ExportError` if ONNX Runtime cannot run the model.

    Attributes:
        samples: the calibration and held-back samples.
        scratch: a folder for files.
    """

    source: Path
    layers: Sequence[Layer]
    samples: SampleSplit
    form: Format
    scratch: Path

    def best_channels(self, model: ir.Model, progress: Progress) -> ir.Model:
        """Return the prepared ``model`` in the variant with the least error on held-back samples.

        Args:
            model: the prepared fp32 model, which stays unchanged.
        """
        fp32, feeds = ir.to_proto(model), self.samples.feeds
        few, measurer = _some(feeds, CALIBRATED), self._measurer((), COMPARED)
        best, highest = fp32, float("-inf")
        compared: set[tuple[_Step, ...]] = set()
        for number, steps in enumerate(VARIANTS):
            part = part_of(progress, number / len(VARIANTS), 1 / len(VARIANTS))
            part("scaling channels")
            changed = ir.serde.deserialize_model(fp32)
            # A step that finds nothing to do leaves the model as it was.
            effective = tuple(step for step in steps if step(changed, self.layers, feeds))
            if effective in compared:
                continue
            compared.add(effective)
            variant = ir.to_proto(changed) if effective else fp32
            found = self._sqnr_db(variant, few, measurer, part)
            if found > highest:
                best, highest = variant, found
        return ir.serde.deserialize_model(best)

    def cuts(self, model: ir.Model, progress: Progress) -> bool:
        """Whether the ranges of activations may cut values of the samples off."""
        proto = ir.to_proto(model)
        marks = itertools.pairwise((0, *self.samples.folds, len(self.samples.feeds)))
        folds = [_some(self.samples.feeds[start:stop], CALIBRATED) for start, stop in marks]
        gain, share = 0.0, 1 / len(folds)
        for index, fold in enumerate(folds):
            others = [feed for other in folds if other is not fold for feed in other]
            measurer = self._measurer(others, CALIBRATED)
            for cut, sign in ((False, 1.0), (True, -1.0)):
                part = part_of(progress, (index + cut / 2) * share, share / 2)
                part("choosing ranges")
                gain += sign * self._sqnr_db(proto, fold, measurer, part, cut=cut)
        return not gain > CLEARLY * len(folds)

    def _measurer(self, feeds: Sequence[Feed], held_back: int) -> Measurer:
        """Compare on ``feeds`` and at most so many held-back samples."""
        judges = [*feeds, *_some(self.samples.held_back, held_back)]
        return Measurer(self.source, judges, None, optimize=True)

    def _sqnr_db(
        self,
        proto: onnx.ModelProto,
        feeds: Sequence[Feed],
        measurer: Measurer,
        progress: Progress,
        *,
        cut: bool = True,
    ) -> float:
        """The SQNR of a model rounded to nearest, with ranges and biases of ``feeds``."""
        results = quantise_layers(
            proto, self.layers, feeds, self.form, strengths=(NEAREST,), reported=0, cut=cut,
            progress=progress,
        )  # fmt: skip
        rounded, _ = build(proto, results, self.form, None)
        path = self.scratch / "variant.onnx"
        write_model(rounded, path, threshold=SCRATCH_THRESHOLD)
        return measurer.measure(path, optimize=True).sqnr_db


def _some(samples: Sequence[Feed], most: int) -> list[Feed]:
    return list(samples[:: max(1, len(samples) // most)])[:most]
