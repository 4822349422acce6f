"""The accuracy of INT8 on inputs outside the calibration set, and that of other quantisers.

    PYTHONPATH=tests/support python tests/benchmarks/int8_accuracy.py \
        [--net NAME] [--samples N] [--only TITLE] [--keep NODE] [--folder FOLDER]
        [--precisions] [PEER=PYTHON …]

The networks and their inputs come from packages: see ``trained_nets.py``, ``trained_inputs.py`` and
``trained_text.py``. ``--precisions`` compares our own precisions instead of other quantisers: each
file as written, with every 16-bit tensor really rounded.
A PEER of ``int8_peers.py``, such as nncf-full, is run by that PYTHON, which has its package:

    python -m venv nncf; nncf/bin/pip install nncf onnx onnxruntime
    python -m venv modelopt; modelopt/bin/pip install 'nvidia-modelopt[onnx]'

Every quantiser gets the same fp32 ONNX and the same N crops of one set of photographs. Each result
runs in ONNX Runtime without its graph optimisations, and is compared with the fp32 ONNX twice: on
other crops of the same photographs, and on crops of other photographs. Ours divides its N crops by
photograph: it is fitted to some, and chooses between variants on the others. Prints a Markdown
table. Its column «layers» counts convolutions and matrix products that read int8 activations and
int8 weights; a quantiser that leaves some out has an easier task, which ``--keep NODE`` gives ours
as well. Seconds are those of this process and its children on the CPU.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from int8_layers import int8_layers
from lowering_calls import lower_cast, lower_qdq
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from trained_nets import NETS, Trained

from deployfold.config.accuracy import GuardSpec, KeepSpec
from deployfold.config.precision import Precision
from deployfold.errors import AccuracyError
from deployfold.lowering.accuracy import Measurer
from deployfold.lowering.emulate import emulate
from deployfold.lowering.request import RANGE_SAMPLES

_AT_ONCE = 18
"""Samples that ONNX Runtime calibrates on at a time; a divisor of 126."""

Feed = dict[str, np.ndarray]
Quantiser = Callable[[Path, Path, list[Feed], list[int]], None]
"""Source, destination, calibration samples, and the photograph that each of them is from."""


def deployfold(precision: Precision, **options: Any) -> Quantiser:
    """Our own, every layer in the precision; a quarter of the files is held back.

    Of fewer than four files, which would leave no two to fit to, a quarter of the samples of each.
    """
    guard = GuardSpec(enabled=False)

    def quantise(source: Path, path: Path, samples: list[Feed], pictures: list[int]) -> None:
        if precision.record.family == "cast":
            lower_cast(source, path, precision, inputs=samples[:RANGE_SAMPLES], guard=guard)
            return
        files = max(pictures) + 1
        held = [picture >= files - files // 4 for picture in pictures]
        if files < 4:
            held = [index >= len(samples) * 3 // 4 for index in range(len(samples))]
        fit = [index for index, out in enumerate(held) if not out]
        lower_qdq(
            source, path, precision=precision, calibration=[samples[index] for index in fit],
            pictures=[pictures[index] for index in fit],
            held_back=[one for one, out in zip(samples, held, strict=True) if out],
            guard=guard, **options,
        )  # fmt: skip

    return quantise


def rounded(path: Path) -> Path:
    """A copy of a file of ours that rounds every 16-bit tensor when a CPU runs it."""
    model = ir.load(path)
    for half in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        emulate(model, half)
    copy = path.with_suffix(".rounded.onnx")
    ir.save(model, copy)
    return copy


class Reader(CalibrationDataReader):
    """Hands ONNX Runtime one sample after another, of the range that it asks for."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._all = feeds
        self._feeds = iter(feeds)

    def __len__(self) -> int:
        return len(self._all)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go on with these samples."""
        self._feeds = iter(self._all[start_index:end_index])

    def get_next(self) -> Feed | None:
        """The next sample."""
        return next(self._feeds, None)


def onnxruntime(method: CalibrationMethod, **options: Any) -> Quantiser:
    """ONNX Runtime's static quantiser in TensorRT's form: symmetric, weights per channel.

    Its histograms are those of all samples, merged from a few samples at a time: of 126 at once it
    keeps every activation of EfficientNet-Lite2, 14 GB.
    """

    def quantise(source: Path, path: Path, samples: list[Feed], _: list[int]) -> None:
        quantize_static(
            source,
            path,
            Reader(samples),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "CalibStridedMinMax": gcd(len(samples), _AT_ONCE),
            }
            | options,
        )

    return quantise


def onnxruntime_dynamic(source: Path, path: Path, *_: object) -> None:
    """ONNX Runtime's dynamic quantiser: ranges of each input at run time, unknown to TensorRT."""
    quantize_dynamic(source, path, per_channel=True, weight_type=QuantType.QInt8)


def peer(name: str, python: str) -> Quantiser:
    """The quantiser of another project, which needs other versions of many packages."""

    def quantise(source: Path, path: Path, samples: list[Feed], _: list[int]) -> None:
        given = path.with_suffix(".npy")
        np.save(given, np.stack([next(iter(feed.values())) for feed in samples]))
        script = Path(__file__).with_name("int8_peers.py")
        subprocess.run([python, script, name, source, given, path], check=True, capture_output=True)

    return quantise


QUANTISERS: dict[str, Quantiser] = {
    "deployfold": deployfold(Precision.INT8),
    "onnxruntime MinMax": onnxruntime(CalibrationMethod.MinMax),
    "onnxruntime Percentile 99.99": onnxruntime(
        CalibrationMethod.Percentile, CalibPercentile=99.99
    ),
    "onnxruntime Percentile 99.999": onnxruntime(
        CalibrationMethod.Percentile, CalibPercentile=99.999
    ),
    "onnxruntime Entropy": onnxruntime(CalibrationMethod.Entropy),
    "onnxruntime dynamic": onnxruntime_dynamic,
}

PRECISIONS: dict[str, Quantiser] = {
    "INT8, skips too": deployfold(Precision.INT8, residual=True),
    **{
        one.record.title: deployfold(one)
        for one in Precision
        if one.record.family in ("cast", "qdq")
    },
}
"""Our own precisions, and INT8 with the skips of residual sums."""


def measured(net: Trained, source: Path, key: str, count: int) -> tuple[Measurer, Measurer]:
    """Comparisons on other samples of the seen files, and on other files."""
    sets = ((net.seen, 1), (net.other, 2))
    same, other = (
        Measurer(source, [{key: values} for values in net.draw(files, count, seed)], None)
        for files, seed in sets
    )
    return same, other


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--net", action="append", choices=[*NETS])
    parser.add_argument("--only", action="append")
    parser.add_argument("--keep", action="append", default=[])
    parser.add_argument("--samples", type=int, default=126)
    parser.add_argument("--judged", type=int, default=132)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.mkdtemp()))
    parser.add_argument("--precisions", action="store_true")
    parser.add_argument("peers", nargs="*")
    given = parser.parse_args()
    others = [word.partition("=") for word in given.peers]
    quantisers = (PRECISIONS if given.precisions else QUANTISERS) | {
        name: peer(name, python) for name, _, python in others
    }
    if given.keep:
        keep = KeepSpec(tuple(given.keep))
        quantisers["deployfold, some kept"] = deployfold(Precision.INT8, keep=keep)
    given.folder.mkdir(parents=True, exist_ok=True)
    print("| network | quantiser | layers | same: dB | top-1 | other: dB | top-1 | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    for name in given.net or NETS:
        net = NETS[name]
        source = given.folder / f"{name.split()[0]}.onnx"
        if not source.exists():
            net.export(source)
        key = onnx.load(source).graph.input[0].name
        feeds = [{key: values} for values in net.draw(net.seen, given.samples, 0)]
        files = sum(len(paths) for paths in net.seen.values())
        pictures = [index % files for index in range(len(feeds))]
        sets = measured(net, source, key, given.judged)
        for title, quantise in quantisers.items():
            if given.only and title not in given.only:
                continue
            path = source.with_suffix(f".{title.replace(' ', '-')}.onnx")
            start = _seconds()
            try:
                quantise(source, path, feeds, pictures)
            except (AccuracyError, subprocess.CalledProcessError) as error:
                print(f"| {name} | {title} | failed: {error} | | | | | |", flush=True)
                continue
            seconds = _seconds() - start
            cells = [int8_layers(path)]
            for measurer in sets:
                found = measurer.measure(rounded(path) if given.precisions else path)
                agreement = "–" if found.agreement is None else f"{found.agreement:.1%}"
                cells.append(f"{found.sqnr_db:.1f} | {agreement}")
            print(f"| {name} | {title} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


def _seconds() -> float:
    times = time.process_time(), *(getattr(_usage(), key) for key in ("ru_utime", "ru_stime"))
    return sum(times)


def _usage() -> Any:
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN)


if __name__ == "__main__":
    main()
