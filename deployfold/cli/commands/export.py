"""Fold and export to TorchScript, .pt2 and ONNX, without engines or measurement.

Example:
  deployfold export resnet50.pt --dynamic-batch 1:8:32 -o exported
"""

from __future__ import annotations

from typing import Any

from deployfold.cli import options as opt
from deployfold.cli.in_session import in_session
from deployfold.cli.render import show_report
from deployfold.cli.session import Session


@in_session("json", "verbose")
@opt.with_build_options(*opt.MODEL, "dynamic-batch", "shapes", *opt.FOLDING, "output")
def export(
    run: Session,
    model: opt.Source,
    **written: Any,
) -> None:
    """The command ``deployfold export``."""
    from deployfold.config.make_spec import spec_of_keywords

    spec = spec_of_keywords(model, {**written, "engine": False, "measure": False})
    run.show_import()
    from deployfold.building.pipeline import build

    report, directory = build(spec, emit=run.emit)
    show_report(run, report, directory)
