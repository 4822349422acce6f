"""The accuracy of INT8 on inputs outside the calibration set, and that of other quantisers.

    PYTHONPATH=tests/support python tests/benchmarks/int8_accuracy.py \
        [--net NAME] [--samples N] [--only TITLE] [--keep NODE] [--folder FOLDER]
        [--precisions] [PEER=PYTHON …]

The networks and their inputs come from packages: see ``trained_nets.py``, ``trained_inputs.py`` and
``trained_text.py``. ``--precisions`` compares our own precisions instead of other quantisers: each
file as written, with every 16-bit tensor really rounded. ``--only`` takes the titles of both, and
those of ``onnxruntime_quantisers.PARTS``.
A PEER of ``int8_peers.py``, such as nncf-full, is run by that PYTHON, which has its package:

    python -m venv nncf; nncf/bin/pip install nncf onnx onnxruntime
    python -m venv modelopt; modelopt/bin/pip install 'nvidia-modelopt[onnx]'

Every quantiser gets the same fp32 ONNX and the same N crops of one set of photographs. Each result
runs in ONNX Runtime without its graph optimisations, and is compared with the fp32 ONNX twice: on
other crops of the same photographs, and on crops of other photographs. Ours divides its N crops by
photograph: it is fitted to some, and chooses between variants on the others. Prints a Markdown
table. Its column «task» is what ``task_agreement.py`` counts for the network. «Layers» are the
convolutions and matrix products that read int8 activations and int8 weights; a quantiser that
leaves some out has an easier task, which ``--keep NODE`` gives ours as well. Seconds are those of
this process and its children on the CPU.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime_quantisers
from int8_layers import int8_layers
from lowering_calls import lower_cast, lower_qdq
from onnxruntime_quantisers import Feed, Quantiser
from trained_nets import NETS, Trained

from deployfold.config.accuracy import GuardSpec, KeepSpec
from deployfold.config.precision import Precision
from deployfold.errors import AccuracyError
from deployfold.exporting.session import open_session, run_session
from deployfold.lowering.accuracy import Measurer
from deployfold.lowering.emulate import emulate
from deployfold.lowering.request import RANGE_SAMPLES


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


def peer(name: str, python: str) -> Quantiser:
    """The quantiser of another project, which needs other versions of many packages."""

    def quantise(source: Path, path: Path, samples: list[Feed], _: list[int]) -> None:
        given = path.with_suffix(".npy")
        np.save(given, np.stack([next(iter(feed.values())) for feed in samples]))
        script = Path(__file__).resolve().with_name("int8_peers.py")
        command = [
            Path(python).absolute(),
            script,
            name,
            *(p.resolve() for p in (source, given, path)),
        ]
        # Model-Optimizer builds an extension, where a pyproject.toml would be taken for its own.
        subprocess.run(command, check=True, capture_output=True, cwd=path.parent)

    return quantise


QUANTISERS = {"deployfold": deployfold(Precision.INT8)} | onnxruntime_quantisers.INT8

PRECISIONS: dict[str, Quantiser] = {
    "INT8, skips too": deployfold(Precision.INT8, residual=True),
    **{
        one.record.title: deployfold(one)
        for one in Precision
        if one.record.family in ("cast", "qdq")
    },
}
"""Our own precisions, and INT8 with the skips of residual sums."""


class Judge:
    """Compares quantised files with the fp32 one on the same inputs."""

    def __init__(self, net: Trained, source: Path, feeds: list[Feed]) -> None:
        self._net = net
        self._feeds = feeds
        self._expected = self._run(source)
        names = [value.name for value in onnx.load(source, load_external_data=False).graph.output]
        outputs = dict(zip(names, zip(*self._expected, strict=True), strict=True))
        self._measurer = Measurer(source, feeds, None, outputs=outputs)

    def cells(self, path: Path) -> str:
        """The SQNR, and the share of the task's results that stay as they were."""
        found = self._run(path)
        decibels = self._measurer.compare(list(zip(*found, strict=True))).sqnr_db
        agree = self._net.agree
        return f"{decibels:.1f} | " + (
            "–" if agree is None else f"{agree(self._expected, found):.1%}"
        )

    def _run(self, path: Path) -> list[list[np.ndarray]]:
        session = open_session(path)
        return [list(run_session(session, feed)) for feed in self._feeds]


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
    peers = {name: peer(name, python) for name, _, python in others}
    quantisers = (PRECISIONS if given.precisions else QUANTISERS) | peers
    if given.only:
        known = QUANTISERS | onnxruntime_quantisers.PARTS | PRECISIONS | peers
        quantisers = {title: known[title] for title in [*given.only, *peers]}
    if given.keep:
        keep = KeepSpec(tuple(given.keep))
        quantisers["deployfold, some kept"] = deployfold(Precision.INT8, keep=keep)
    given.folder.mkdir(parents=True, exist_ok=True)
    print("| network | quantiser | layers | same: dB | task | other: dB | task | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    for name in given.net or NETS:
        net = NETS[name]
        source = given.folder / f"{name.split()[0]}.onnx"
        if not source.exists():
            net.export(source)
        key = onnx.load(source).graph.input[0].name
        feeds = [{key: values} for values in net.draw(net.seen, given.samples, 0)]
        count = sum(map(len, net.seen.values()))
        pictures = [index % count for index in range(len(feeds))]
        judges = [
            Judge(net, source, [{key: values} for values in net.draw(files, given.judged, seed)])
            for files, seed in ((net.seen, 1), (net.other, 2))
        ]
        for title, quantise in quantisers.items():
            path = source.with_suffix(f".{title.replace(' ', '-')}.onnx")
            start = _seconds()
            try:
                quantise(source, path, feeds, pictures)
            except (AccuracyError, subprocess.CalledProcessError) as error:
                print(f"| {name} | {title} | failed: {error} | | | | | |", flush=True)
                continue
            seconds = _seconds() - start
            judged = rounded(path) if title in PRECISIONS else path
            cells = [int8_layers(path), *(judge.cells(judged) for judge in judges)]
            print(f"| {name} | {title} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


def _seconds() -> float:
    times = time.process_time(), *(getattr(_usage(), key) for key in ("ru_utime", "ru_stime"))
    return sum(times)


def _usage() -> Any:
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN)


if __name__ == "__main__":
    main()
