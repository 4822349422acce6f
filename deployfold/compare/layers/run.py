"""Compares two files layer by layer: opens them, chooses the inputs, and runs both."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch

from deployfold.building.load_again import inputs_of, load_again, named_code
from deployfold.compare.layers.result import LayerComparison, Limits, limit_for
from deployfold.config.inputs import InputSpec, random_origin
from deployfold.config.real_data import CalibrationSpec
from deployfold.data.real_inputs import load_samples
from deployfold.errors import UsageError
from deployfold.events import Emit, StageFinished, StageStarted, ignore
from deployfold.loading import in_single_precision, load_model, make_inputs, resolve_inputs
from deployfold.loading.model import LoadedModel
from deployfold.reporting.conditions import Source
from deployfold.reporting.report import REPORT_JSON, Report, load_report
from deployfold.runtimes import EAGER, ONNX_RUNTIME, TENSORRT, RunSettings, runtime_of
from deployfold.runtimes.tensors import to_array
from deployfold.util.files import sha256

from .differences import compare_pairs
from .eager import EagerSide, check_visible
from .onnx import OnnxSide, read
from .pairing import pair
from .side import OUTPUT, Side

Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class _File:
    """One of the two files: a loaded model, or an ONNX."""

    source: str
    model: LoadedModel | ir.Model

    def side(self, feeds: Sequence[Inputs], scratch: Path) -> Side:
        name = Path(self.source).name
        if isinstance(self.model, LoadedModel):
            return EagerSide(name, self.model.module, feeds)
        names = [str(value.name) for value in self.model.graph.inputs]
        if len(feeds[0]) != len(names):
            raise UsageError(
                f"{name} takes {len(names)} inputs, but {len(feeds[0])} were given.",
                hint=f"Its inputs are: {', '.join(names)}.",
            )
        arrays = [
            {key: to_array(tensor) for key, tensor in zip(names, feed, strict=True)}
            for feed in feeds
        ]
        return OnnxSide(Path(self.source), self.model, arrays, scratch)


def compare_files(
    old: str,
    new: str,
    *,
    arch: str | None = None,
    inputs: InputSpec | None = None,
    data: Path | None = None,
    seed: int = 0,
    min_sqnr: float | None = None,
    max_diff: float | None = None,
    allow_globals: tuple[str, ...] = (),
    trust: bool = False,
    emit: Emit = ignore,
) -> LayerComparison:
    """Run two forms of one model on the same inputs and compare the outputs of their layers.

    Args:
        old, new: a checkpoint, a model by name, or an ``.onnx`` of any precision.
        arch: the architecture of a state dict.
        inputs: the shapes; ``None`` takes them from the report in the file's folder, from an ONNX,
            or from the model.
        data: a file or folder of real inputs; ``None`` for seeded random inputs.
        min_sqnr: the least SQNR in dB of every layer; ``None`` chooses by the precisions.
        max_diff: the greatest max |Δ| of a layer; ``None`` for no limit.
        allow_globals, trust: permissions for checkpoints, as for loading.
        emit: receives the events of the comparison.

    Raises:
        UsageError: a file has no visible layers, no input shape is known, or the two have no
            layer in common.
        LoadError: a checkpoint cannot be read, or could run code.
        MeasureError: one of the files does not run.
    """
    start = time.perf_counter()
    emit(StageStarted("compare", "loading"))
    reports = [found for source in (old, new) if (found := _report_beside(source)) is not None]
    files = [
        _original(source, reports, arch, allow_globals, trust)
        or _open(source, arch, allow_globals, trust)
        for source in (old, new)
    ]
    spec = inputs or (inputs_of(reports[0]) if reports else _inputs(files))
    feeds: Sequence[Inputs] = (make_inputs(spec, seed=seed),)
    described = f"{spec}, {random_origin(seed)}"
    if data is not None:
        read = load_samples(CalibrationSpec(str(data)), spec, arch=arch, every=True)
        feeds = read.tensors(spec)
        described = f"{spec}, {len(feeds) * spec.batch} samples of {data.name}"
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        emit(StageStarted("compare", "finding their layers"))
        before = files[0].side(feeds, Path(first))
        after = files[1].side(feeds, Path(second))
        pairing = pair(before, after)
        if all(one.kind == OUTPUT for one in pairing.pairs):
            raise UsageError(
                f"{before.name} and {after.name} have no layer in common.",
                hint="Give two forms of one model, such as a checkpoint and the ONNX of its build.",
            )
        least = limit_for(before.precision, after.precision) if min_sqnr is None else min_sqnr
        layers = compare_pairs(before, after, pairing.pairs, Limits(least, max_diff), emit=emit)
    seconds = time.perf_counter() - start
    emit(StageFinished("compare", f"{len(layers)} layers", seconds))
    return LayerComparison(
        old=old,
        new=new,
        old_precision=before.precision,
        new_precision=after.precision,
        input_data=described,
        min_sqnr_db=least,
        max_diff=max_diff,
        layers=layers,
        skipped=pairing.skipped,
        alone=pairing.alone,
    )


def _original(
    source: str,
    reports: Sequence[Report],
    arch: str | None,
    allow_globals: tuple[str, ...],
    trust: bool,
) -> _File | None:
    """The original of a build, as the build loaded it; ``None`` for other files."""
    built = next((one for one in reports if _is_source(source, one.source)), None)
    if built is None or (named_code(built) not in (None, arch) and not trust):
        return None
    here = built.source.model_copy(update={"path": source})
    model = load_again(
        built.model_copy(update={"source": here}),
        inputs_of(built),
        allow_globals=allow_globals,
        trust=trust,
    )
    check_visible(source, model.module)
    return _File(source, model)


def _open(source: str, arch: str | None, allow_globals: tuple[str, ...], trust: bool) -> _File:
    path = Path(source)
    if path.is_dir():
        there = sorted(
            one.name for one in path.iterdir() if runtime_of(one) in (ONNX_RUNTIME, EAGER)
        )
        raise UsageError(
            f"{source} is a directory, but --layers compares two files.",
            hint=f"Its files: {', '.join(there)}." if there else None,
        )
    if runtime_of(path) is TENSORRT:
        raise UsageError(
            f"The layers of {source} are not visible, because an engine has fused them.",
            hint="Compare the ONNX that it was built from.",
        )
    if runtime_of(path) is ONNX_RUNTIME:
        if not path.is_file():
            raise UsageError(f"{source} does not exist.")
        return _File(source, read(path))
    is_state = arch is not None and path.exists()
    loaded = load_model(
        source, arch=arch if is_state else None, allow_globals=allow_globals, trust=trust
    )
    loaded, _ = in_single_precision(loaded, None)
    check_visible(source, loaded.module)
    return _File(source, loaded)


def _report_beside(source: str) -> Report | None:
    """The report of the build that ``source`` is an artifact of."""
    path = Path(source)
    report = path.parent / REPORT_JSON
    if not (path.is_file() and report.is_file()):
        return None
    found = load_report(report)
    return found if path.name in [row.artifact for row in found.rows] else None


def _is_source(source: str, of: Source) -> bool:
    """Whether ``source`` is the original model of a build in PyTorch.

    The report's path may be relative to the directory of the build, so the content decides.
    """
    path, built = Path(source), Path(of.path)
    if of.kind == "onnx":  # compared as the file that it is
        return False
    if path.is_file():
        return path.stat().st_size == of.bytes and sha256(path) == of.sha256
    return source == of.path or (path.exists() and built.exists() and path.samefile(built))


def _inputs(files: Sequence[_File]) -> InputSpec:
    """The input shapes of an ONNX, or of a model."""
    for one in files:
        if isinstance(one.model, ir.Model):
            return ONNX_RUNTIME.open(Path(one.source), RunSettings()).inputs()
    first = files[0].model
    assert isinstance(first, LoadedModel)
    return resolve_inputs(first, None)
