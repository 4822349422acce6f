"""``python -m deployfold.compile.worker REQUEST.json``: one engine, in a process of its own.

A native crash or a hang then costs the build and not the program. The request is a JSON file, or
``-`` for standard input. Standard output carries JSON lines and nothing else: ``progress`` any
number of times, then one ``done`` or ``error``. Everything that the libraries print goes to
standard error, which the parent makes the log.

With a request from a file, standard input is the parent's sign of life: the worker leaves when it
closes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from deployfold.errors import CompileError, DeployfoldError

from .request import EngineRequest

Send = Callable[[dict[str, Any]], None]

ORPHANED = 3
"""The exit code of a worker whose parent died."""


def main(arguments: Sequence[str]) -> int:
    """Build what the request asks for; 0 when ``done`` was sent, 1 when ``error`` was."""
    channel = _claim_stdout()
    lock = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with lock:
            channel.write(json.dumps(message) + "\n")
            channel.flush()

    try:
        if len(arguments) != 1:
            raise CompileError("The worker takes one request: a JSON file, or - for stdin.")
        if arguments[0] == "-":
            text = sys.stdin.read()
        else:
            text = Path(arguments[0]).read_text(encoding="utf-8")
            threading.Thread(target=_leave_with_parent, daemon=True).start()
        send(_build(json.loads(text), send))
    except DeployfoldError as error:
        traceback.print_exc()
        send({"event": "error", "message": error.message, "hint": error.hint})
        return 1
    except Exception as error:
        traceback.print_exc()
        text = " ".join(str(error).split()).rstrip(".")
        send({"event": "error", "message": f"{type(error).__name__}: {text}.", "hint": None})
        return 1
    return 0


def _build(job: dict[str, Any], send: Send) -> dict[str, Any]:
    # Here and not above: these imports take a second, and their prints must not reach stdout.
    from .checks import check_finite, check_onnx
    from .tensorrt import build, import_library

    request = EngineRequest.from_json(job["request"])
    onnx, engine = Path(job["onnx"]), Path(job["engine"])

    def report(phase: str, fraction: float | None) -> None:
        send({"event": "progress", "phase": phase, "fraction": fraction})

    report("Checking the ONNX", None)
    check_onnx(onnx)
    notes = [] if request.allow_nonfinite else check_finite(onnx)
    built = build(import_library(request.library), request, onnx, engine, report)
    return {
        "event": "done",
        "library_version": built.library_version,
        "layer_counts": dataclasses.asdict(built.layer_counts),
        "notes": notes,
    }


def _claim_stdout() -> TextIO:
    # A library's printf writes to descriptor 1, past sys.stdout: keep the pipe for ourselves and
    # point 1 at the log.
    descriptor = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(descriptor, "w", encoding="utf-8")


def _leave_with_parent() -> None:
    # read(2) on the descriptor: the buffered reader would hold a lock that the interpreter wants
    # at exit.
    while os.read(0, 4096):
        pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
