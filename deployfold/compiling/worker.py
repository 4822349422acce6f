"""The worker, ``python -m deployfold.compiling.worker JOB.json``: one build in its own process.

A native crash or a hang then ends the build, but not the program.

The job is a JSON file, or ``-`` for standard input. A job with the key ``builder`` names the
function that builds, as ``module:function``, and has the keys that the function takes. Any other
job is for a TensorRT engine: ``request`` (an :class:`~.records.EngineRequest`), ``onnx``,
``engine`` and ``checked``.

Standard output has only JSON lines: ``progress`` any number of times, then one ``done``,
``unwritable`` or ``error``. All output of the libraries goes to standard error, which the parent
writes to the log.

If the job is a file, the parent keeps standard input open. The worker ends when it closes, which
shows that the parent has died.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from deployfold.errors import CompileError, DeployfoldError, one_line
from deployfold.util.child import at_end_of_parent
from deployfold.util.memory import peak_bytes

from .records import EngineRequest

Send = Callable[[dict[str, Any]], None]

ORPHANED = 3
"""The exit code of a worker whose parent died."""


def main(arguments: Sequence[str]) -> int:
    """Run the job; the exit code is 0 if ``done`` was sent, else 1."""
    channel = _claim_stdout()
    lock = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with lock:
            channel.write(json.dumps(message) + "\n")
            channel.flush()

    try:
        if len(arguments) != 1:
            raise CompileError("The worker takes one job: a JSON file, or - for stdin.")
        if arguments[0] == "-":
            text = sys.stdin.read()
        else:
            text = Path(arguments[0]).read_text(encoding="utf-8")
            at_end_of_parent(lambda: os._exit(ORPHANED))
        answer = {**_build(json.loads(text), send), "peak_bytes": peak_bytes()}
        send(answer)
    except DeployfoldError as error:
        traceback.print_exc()
        send({"event": "error", "message": error.message, "hint": error.hint})
        return 1
    except Exception as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {one_line(error)}."
        send({"event": "error", "message": text, "hint": None})
        return 1
    return 0 if answer["event"] == "done" else 1


def _build(job: dict[str, Any], send: Send) -> dict[str, Any]:
    def report(phase: str, fraction: float | None) -> None:
        send({"event": "progress", "phase": phase, "fraction": fraction})

    # These imports take seconds and may print, which must not reach stdout. So they stand here.
    if "builder" in job:
        module, _, function = job["builder"].partition(":")
        return {"event": "done", **getattr(import_module(module), function)(job, report)}

    from deployfold.targets.libraries import import_library

    from .tensorrt.builder import EngineNotWritten, build
    from .tensorrt.retry_in_fp32 import build_or_retry

    request = EngineRequest.from_json(job["request"])
    onnx, engine = Path(job["onnx"]), Path(job["engine"])

    notes = []
    if not job.get("checked"):
        from .tensorrt.onnx_checks import check

        report("Checking the ONNX", None)
        notes = check(onnx)
    try:
        trt = import_library(request.library, CompileError)
        built = build_or_retry(build, trt, request, onnx, engine, report)
    except EngineNotWritten as error:
        return {"event": "unwritable", "errno": error.error.errno, "reason": error.error.strerror}
    return {
        "event": "done",
        "library_version": built.library_version,
        "layer_counts": built.layer_counts.to_json(),
        "tensors": [dataclasses.asdict(tensor) for tensor in built.tensors],
        "notes": [*notes, *built.notes],
        "listing": None if built.listing is None else dataclasses.asdict(built.listing),
    }


def _claim_stdout() -> TextIO:
    # A library's printf writes to descriptor 1 and bypasses sys.stdout. So the pipe gets another
    # descriptor, and descriptor 1 becomes the log.
    descriptor = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(descriptor, "w", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
