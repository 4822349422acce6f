"""Loading and folding alone, for ``deployfold fold``.

The other stages are not imported: with their libraries they take longer than folding.
"""

from __future__ import annotations

from pathlib import Path

from deployfold.config.build_spec import BuildSpec
from deployfold.events import Emit, ignore
from deployfold.reporting.report import Report, Status

from .fold import fold
from .journal import Journal
from .load import load
from .report import make_report
from .rows import unmeasured_rows


def fold_file(spec: BuildSpec, output: Path | None, *, emit: Emit = ignore) -> Report:
    """Load and fold alone; write the folded module, or ONNX, to ``output`` if that is given.

    Raises:
        LoadError, FoldError: the stage failed; nothing is written then.
    """
    journal = Journal(emit)
    loaded = load(spec, journal, exported=False)
    folded = fold(loaded, spec, journal, output, must_save=True)
    if output is not None and loaded.model.in_onnx:
        from .onnx_source import write_folded

        write_folded(loaded, folded, output)
    rows = unmeasured_rows(folded.artifacts, "deployfold fold measures nothing")
    return make_report(spec, loaded, folded, rows, journal, Status())
