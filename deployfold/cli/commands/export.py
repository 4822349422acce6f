"""Fold and export to TorchScript, .pt2 and ONNX, without engines or measurement.

Example:
  deployfold export resnet50.pt --dynamic-batch 1:8:32 -o exported
"""

from __future__ import annotations

from deployfold.cli import options as opt
from deployfold.cli.render import show_report
from deployfold.cli.session import session


def export(
    model: opt.Source,
    arch: opt.Arch = None,
    arch_arg: opt.ArchArgs = None,
    weights: opt.Weights = None,
    input: opt.Inputs = None,
    dynamic_batch: opt.DynamicBatch = None,
    shapes: opt.Shapes = None,
    allow_global: opt.AllowGlobals = None,
    trust: opt.Trust = False,
    no_reparam: opt.NoReparam = False,
    output: opt.OutputDirectory = None,
    json: opt.Json = False,
    verbose: opt.Verbose = False,
    no_color: opt.NoColor = False,
    debug: opt.Debug = False,
) -> None:
    """The command ``deployfold export``."""
    with session(json=json, verbose=verbose, debug=debug, no_color=no_color) as run:
        from deployfold.building.pipeline import build
        from deployfold.config.make_spec import make_spec

        written = {
            "output": output, "arch": arch, "arch-arg": arch_arg, "weights": weights,
            "input": input, "dynamic-batch": dynamic_batch, "shapes": shapes,
            "allow-global": allow_global, "trust": trust, "no-reparam": no_reparam,
        }  # fmt: skip
        spec = make_spec(model, written, engine=False, measure=False)
        report, directory = build(spec, emit=run.emit)
        show_report(run, report, directory)
