"""The stage that cuts a model where no engine can go on: ``--tail``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from deployfold.compiling.planning import plan_engines
from deployfold.compiling.records import EngineRequest
from deployfold.compiling.tensorrt.missing_operators import MISSING_OPERATORS
from deployfold.config import row_names
from deployfold.config.build_spec import BuildSpec
from deployfold.config.precision import Precision
from deployfold.errors import CompileError, ExportError
from deployfold.exporting.onnx import check_file
from deployfold.exporting.outputs import check_outputs
from deployfold.exporting.session import open_session, run_session
from deployfold.exporting.split import CHOOSING, Split, find_missing, place_of, run_tail, split
from deployfold.exporting.storage import staged, write_model
from deployfold.finish.reference import write_reference
from deployfold.lowering.graph import load as load_graph
from deployfold.lowering.graph import prepare
from deployfold.runtimes import ONNX_RUNTIME
from deployfold.runtimes.tail_name import head_reference
from deployfold.runtimes.tensors import to_array
from deployfold.targets.machine import detect
from deployfold.util.onnx_files import onnx_bytes

from .journal import Journal
from .load import Loaded
from .results import Exported
from .settings import run_settings


def cut_tail(exported: Exported, loaded: Loaded, spec: BuildSpec, journal: Journal) -> Exported:
    """Cut the fp32 ONNX before the first operator that its engine cannot have.

    With ``--tail auto`` only for engines of TensorRT-RTX, with ``keep`` never. What follows, from
    lowering to engines, is made of the head; ``NAME.tail.onnx`` runs behind each of these files.
    The two parts are compared with the whole on the build's samples.

    Returns:
        The same, with the head in the place of the ONNX; unchanged where nothing is cut.

    Raises:
        ExportError: the parts together compute something else than the whole.
    """
    cutting = {*MISSING_OPERATORS, *(CHOOSING if spec.tail == "cut" else ())}
    if exported.operators is not None and not exported.operators & cutting:
        return exported
    if spec.tail == "keep" or not _wanted(spec):
        return exported
    whole = exported.onnx.file
    model = load_graph(whole)
    prepare(model)
    reasons: Mapping[str, str] = MISSING_OPERATORS
    found = split(model, reasons)
    if found is None and spec.tail == "cut":
        reasons = CHOOSING
        found = split(model, reasons)
    del model
    if found is None:
        return exported
    head, tail = (whole.with_name(f"{whole.stem}.{part}.onnx") for part in ("head", "tail"))
    with journal.running("export", "cutting the tail off") as stage:
        for path, graph in ((head, found.head), (tail, found.tail)):
            with staged(path) as temporary:
                write_model(graph, temporary)
                check_file(temporary)
        _compare(whole, head, tail, loaded)
        given = [to_array(value) for value in loaded.example]
        made = run_session(open_session(head), loaded.feeds[0])
        write_reference(head.with_name(str(head_reference(head.name))), given, made)
        stage.result(f"cut before {found.place}, {found.tail_nodes} nodes in the tail")
    journal.note([_sentence(found, tail, reasons[found.op_type])])
    row = journal.keep(
        replace(
            exported.onnx,
            name=row_names.CUT_ONNX,
            title="ONNX Runtime, cut",
            path=head,
            runner=ONNX_RUNTIME.open(head, run_settings(spec)),
            bytes=onnx_bytes(head),
            notes=(f"{head.name}, then {tail.name}",),
        )
    )
    return Exported(row, exported.program, (*exported.artifacts, row))


def _wanted(spec: BuildSpec) -> bool:
    if spec.tail == "cut":
        return True
    if not spec.engine:
        return False
    precision = (*spec.precisions, Precision.FP32)[0]
    return any(
        isinstance(one, EngineRequest) and one.library == "tensorrt_rtx"
        for one in plan_engines(spec.targets, precision, detect())
    )


def _sentence(found: Split, tail: Path, reason: str) -> str:
    return (
        f"The engine ends before {found.place}: {reason}. ONNX Runtime runs {tail.name} behind it."
    )


def _compare(whole: Path, head: Path, tail: Path, loaded: Loaded) -> None:
    sessions = [open_session(path) for path in (whole, head, tail)]
    names = [one.name for one in sessions[1].get_outputs()]
    for feed in loaded.feeds[:4]:
        expected = run_session(sessions[0], feed)
        between = dict(zip(names, run_session(sessions[1], feed), strict=True))
        results = run_tail(sessions[2], feed, between)
        reference = [torch.from_numpy(value.copy()) for value in expected]
        try:
            check_outputs(reference, results, what="The cut model")
        except ExportError as error:
            raise ExportError(
                error.message, hint="Build with --tail keep, and please report it."
            ) from error


def refusal(path: Path) -> CompileError | None:
    """Why no engine of this ONNX can be built, and what to do; ``None`` if nothing is known."""
    model = load_graph(path, weights=False)
    prepare(model)
    first = find_missing(model, MISSING_OPERATORS)
    if first is None:
        return None
    operator, place = place_of(first, MISSING_OPERATORS)
    message = f"TensorRT-RTX cannot build {place}: {MISSING_OPERATORS[operator]}."
    if split(model, MISSING_OPERATORS) is None:  # the layers with weights come after it
        hint = "Take the operator out of the model, and run it before the engine."
    else:
        hint = (
            "Build with --tail cut: ONNX Runtime then runs it, and what follows, behind the engine."
        )
    return CompileError(message, hint=hint)
