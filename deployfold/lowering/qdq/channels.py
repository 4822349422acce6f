"""Chooses whether to scale channels and recentre activations, by the error on held-back samples.

The rewrites keep the function of a model, and change its rounding errors in int8. Their factors
come from the calibration samples. If channels take different values on other samples, the rewrites
cost more than they gain: EfficientNet-Lite0, equalised with 28 crops of seven photographs, had
18 dB on other photographs, and 23 dB without equalisation. Therefore each variant is rounded to
nearest, with biases corrected, and compared with the fp32 model on samples of pictures outside the
calibration data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

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
from .smooth import smooth

COMPARED = 16
"""Most held-back samples for the comparison."""

CALIBRATED = 8
"""Most calibration samples for the ranges and biases of the compared variants."""

_Step = Callable[[ir.Model, Sequence[Layer], Sequence[Feed]], int]

VARIANTS: tuple[tuple[_Step, ...], ...] = ((), (recentre,), (equalise, recentre), (smooth,))
"""The variants to compare. The first changes nothing, and stays if no other is better."""


def best_channels(
    model: ir.Model,
    layers: Sequence[Layer],
    feeds: Sequence[Feed],
    held_back: Sequence[Feed],
    source: Path,
    form: Format,
    scratch: Path,
    progress: Progress,
) -> ir.Model:
    """Return the prepared ``model`` in the variant with the least error on held-back samples.

    Args:
        model: the prepared fp32 model, which stays unchanged.

    Raises:
        ExportError: ONNX Runtime cannot run the model.
    """
    fp32 = ir.to_proto(model)
    measurer = Measurer(source, _some(held_back, COMPARED), None, optimize=True)
    path = scratch / "variant.onnx"
    best, highest = fp32, float("-inf")
    compared: set[tuple[_Step, ...]] = set()
    for number, steps in enumerate(VARIANTS):
        part = part_of(progress, number / len(VARIANTS), 1 / len(VARIANTS))
        part("scaling channels")
        changed = ir.serde.deserialize_model(fp32)
        # A step that finds nothing to do leaves the model as it was.
        effective = tuple(step for step in steps if step(changed, layers, feeds))
        if effective in compared:
            continue
        compared.add(effective)
        variant = ir.to_proto(changed) if effective else fp32
        few = _some(feeds, CALIBRATED)
        results = quantise_layers(
            variant, layers, few, form, strengths=(NEAREST,), reported=0, progress=part
        )
        rounded, _ = build(variant, results, form, None)
        write_model(rounded, path, threshold=SCRATCH_THRESHOLD)
        found = measurer.measure(path, optimize=True).sqnr_db
        if found > highest:
            best, highest = variant, found
    return ir.serde.deserialize_model(best)


def _some(samples: Sequence[Feed], most: int) -> list[Feed]:
    return list(samples[:: max(1, len(samples) // most)])[:most]
