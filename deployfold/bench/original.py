"""The runner of the original model of an earlier build."""

from __future__ import annotations

from pathlib import Path

from deployfold.building.load_again import load_again, named_code
from deployfold.config.inputs import InputSpec
from deployfold.errors import DeployfoldError, LoadError
from deployfold.reporting.conditions import Source
from deployfold.reporting.report import Report
from deployfold.runtimes import ONNX_RUNTIME
from deployfold.runtimes.eager import EagerRunner
from deployfold.runtimes.protocol import Runner
from deployfold.runtimes.settings import RunSettings
from deployfold.util.files import sha256


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
    code = named_code(source)
    if code is not None and not settings.trust:
        raise LeftOut(
            f"is left out: the report names code, {code}, as its architecture; --trust runs that "
            "code"
        )
    if "reestimate-bn" in (report.options or {}):
        raise LeftOut("is left out: --reestimate-bn changed its BatchNorm statistics")
    try:
        model = load_again(
            report, inputs, allow_globals=settings.allow_globals, trust=settings.trust
        )
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


def _changed(source: Source) -> bool:
    """Whether a file that cannot be loaded is another file than that of the build."""
    path = Path(source.path)
    return path.is_file() and source.sha256 not in (None, sha256(path))
