"""Property tests: the same examples in every run, or ten times as many random ones.

``make test`` is reproducible, because CI runs it. ``make test-random`` draws anew; what it finds
becomes an ``@example`` of the test that failed. ``tests/gpu`` runs without hypothesis too.

Exports to ONNX share one table of operators, see :mod:`export_tables`.
"""

from __future__ import annotations

import gc
from importlib.util import find_spec

from export_tables import keep_export_tables
from hypothesis_examples import FACTOR

if find_spec("hypothesis") is not None:
    from hypothesis import settings

    settings.register_profile("reproducible", derandomize=True, deadline=None)
    settings.register_profile("random", max_examples=100 * FACTOR, deadline=None)
    settings.load_profile("reproducible" if FACTOR == 1 else "random")

keep_export_tables()


def pytest_collection_finish() -> None:
    """Spare each collection of garbage, one of which precedes each measurement, the imports."""
    gc.collect()
    gc.freeze()
