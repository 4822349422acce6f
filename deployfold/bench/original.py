"""Loads the original model of an earlier build again, as the build had it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deployfold.building.journal import Journal
from deployfold.building.load import load
from deployfold.config.build_options import build_options
from deployfold.config.inputs import InputSpec
from deployfold.config.make_spec import make_spec
from deployfold.config.option_field import Panel
from deployfold.config.schema import check_written
from deployfold.errors import DeployfoldError, LoadError
from deployfold.loading import LoadedModel
from deployfold.loading.transformers_zoo import PACKAGE
from deployfold.loading.zoo import is_zoo_name
from deployfold.reporting.report import Report, Source
from deployfold.runtimes import ONNX_RUNTIME
from deployfold.runtimes.eager import EagerRunner
from deployfold.runtimes.protocol import Runner
from deployfold.runtimes.settings import RunSettings
from deployfold.util.files import sha256

_NOT_OF_THE_MODEL = frozenset({"input-data", "labels", "metric", "min-metric"})
"""Options of the panels for models and pictures that concern only the data."""


class LeftOut(Exception):
    """The reason why a bench has no row of the original, as the end of a sentence."""


def original(report: Report, inputs: InputSpec, settings: RunSettings) -> Runner:
    """A runner of the original model: the same weights, in the precision that the build ran.

    Args:
        report: the report of the build.
        inputs: the inputs of the build's files.
        settings: how to run the model, and what its file may do.

    Raises:
        LeftOut: the model is gone or another one, or the report names code to run.
        LoadError: the file needs a permission that the build had.
    """
    source = report.source
    if source.kind not in ("zoo", "factory") and not Path(source.path).exists():
        raise LeftOut("no longer exists")
    code = source.arch if source.kind in ("state_dict", "factory") else None
    ours = code is None or is_zoo_name(code) or code.startswith(f"{PACKAGE}:")
    if not ours and not settings.trust:
        # A report can come from anywhere, so importing code that it names needs the user's trust.
        raise LeftOut(
            f"is left out: the report names code, {code}, as its architecture; --trust runs that "
            "code"
        )
    if "reestimate-bn" in (report.options or {}):
        raise LeftOut("is left out: --reestimate-bn changed its BatchNorm statistics")
    try:
        model = _load(report, inputs, settings)
    except LoadError:
        if _changed(source):
            raise LeftOut("has changed since the build") from None
        raise
    except DeployfoldError as error:
        raise LeftOut(f"is left out: {error.message.rstrip('.')}") from error
    if model.sha256 != source.sha256:
        raise LeftOut("has changed since the build")
    path = getattr(model.module, "path", None)
    if model.kind == "onnx" and path == Path(source.path):  # not a copy that takes raw frames
        return ONNX_RUNTIME.open(path, settings)
    return EagerRunner(model.module, device=settings.device, cuda_graph=settings.engine.cuda_graph)


def _load(report: Report, inputs: InputSpec, settings: RunSettings) -> LoadedModel:
    """The model after the load stage of the build, whose options the report has."""
    source = report.source
    panels = {one.key: one.panel for one in build_options()}
    written = {
        key: value
        for key, value in (report.options or {}).items()
        if panels.get(key) in (Panel.MODEL, Panel.IMAGES) and key not in _NOT_OF_THE_MODEL
    }
    check_written(written)
    spec = make_spec(source.path, written)
    if spec.image_input is None:  # else these are the inputs behind the pictures
        spec = replace(spec, inputs=inputs)
    if source.kind == "state_dict":
        spec = replace(spec, arch=source.arch)
    spec = replace(spec, allow_globals=settings.allow_globals, trust=settings.trust)
    return load(spec, Journal()).model


def _changed(source: Source) -> bool:
    """Whether a file that cannot be loaded is another file than that of the build."""
    path = Path(source.path)
    return path.is_file() and source.sha256 not in (None, sha256(path))
