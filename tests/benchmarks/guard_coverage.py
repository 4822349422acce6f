"""How often the tightest limit that the guard accepts holds on photographs that nothing has seen.

    PYTHONPATH=tests/support python tests/benchmarks/guard_coverage.py [NET]

NET of ``trained_nets.py`` is quantised to INT8 on the photographs that calibrate. Of the others,
1000 random halves guard, and the rest judges. A limit as high as the measured SQNR of the guarding
half, or as its likely SQNR, then holds on the rest or not.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from int8_accuracy import deployfold
from trained_nets import NETS

from deployfold.config.precision import Precision
from deployfold.exporting.session import open_session, run_session
from deployfold.lowering.estimates import likely_sqnr_db
from deployfold.util.numerics import sqnr_db

SAMPLES, JUDGED, DIVISIONS = 126, 132, 1000


def main(name: str) -> None:
    """Print how often each of the two limits holds, and how far the second is below the first."""
    net = NETS[name]
    folder = Path(tempfile.mkdtemp())
    source, path = folder / "net.onnx", folder / "int8.onnx"
    net.export(source)
    key = onnx.load(source).graph.input[0].name
    files, others = (sum(map(len, part.values())) for part in (net.seen, net.other))
    feeds = [{key: values} for values in net.draw(net.seen, SAMPLES, 0)]
    deployfold(Precision.INT8)(source, path, feeds, [i % files for i in range(SAMPLES)])
    judged = [{key: values} for values in net.draw(net.other, JUDGED, 2)]
    sessions = (open_session(one, optimize=False) for one in (source, path))
    expected, found = ([run_session(one, feed)[0] for feed in judged] for one in sessions)
    random = np.random.default_rng(0)
    held, margins = np.zeros(2), []
    for _ in range(DIVISIONS):
        guarding = random.permutation(others)[: others // 2]
        inside = [index for index in range(JUDGED) if index % others in guarding]
        rest = [index for index in range(JUDGED) if index % others not in guarding]
        seen, unseen = ([[part[i] for i in some] for part in (expected, found)]
                        for some in (inside, rest))  # fmt: skip
        limits = sqnr_db(*seen), likely_sqnr_db(*seen, [index % others for index in inside])
        held += sqnr_db(*unseen) >= np.array(limits)
        margins.append(limits[0] - limits[1])
    shares = held / DIVISIONS
    print(f"{name}: the measured SQNR holds on other photographs in {shares[0]:.1%},")
    print(f"the likely SQNR, {np.mean(margins):.1f} dB below on average, in {shares[1]:.1%}")


if __name__ == "__main__":
    main((*sys.argv[1:], "MobileNetV2")[0])
