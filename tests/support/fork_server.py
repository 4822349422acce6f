"""Runs ``deployfold`` in forks of one process that has imported torch and its exporters.

A command spends three to seven seconds of processor time on imports, and most tests are not about
them. Each command runs in a process of its own all the same, with its own environment, working
directory, streams and exit code. Imported, this module is the client; run as a script, the server,
which takes one JSON object a line and answers each with the exit code.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from functools import cache
from pathlib import Path
from typing import NoReturn

AVAILABLE = hasattr(os, "fork")
CHANGEABLE = frozenset(
    {
        "COLUMNS", "NO_COLOR", "FORCE_COLOR", "HOME", "PYTHONPATH", "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
    }
)  # fmt: skip
"""Variables that are read when a command runs; others may be read while modules are imported.

A module in ``PYTHONPATH`` is not imported in place of one that the server has imported.
"""
_TIMEOUT = 300
"""Seconds until a command is killed."""


@cache
def _server() -> subprocess.Popen[str]:
    """The server of this test process; it ends when this process does and closes its input."""
    return subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # a process with threads cannot be forked
    )


def run_forked(
    words: list[str], cwd: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run ``deployfold WORDS`` in a fork.

    Args:
        environment: all variables of the command; they differ from this process's in
            :data:`CHANGEABLE` alone.

    Returns:
        Exit code, negative for a signal, and the two streams, which are files and no terminals.
    """
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        streams = [str(Path(folder) / name) for name in ("stdout", "stderr")]
        order = {"words": words, "cwd": str(cwd), "environment": environment, "streams": streams}
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, "the server of forks has ended"
        out, err = (Path(name).read_text(encoding="utf-8") for name in streams)
    return subprocess.CompletedProcess(["deployfold", *words], int(answer), out, err)


def _import_and_export() -> None:
    """Import what commands import, and let torch's exporter build its tables."""
    import torch
    import tqdm
    from export_tables import keep_export_tables

    import deployfold.building.pipeline
    from deployfold.exporting import torch_onnx

    tqdm.tqdm.monitor_interval = 0  # no thread: forks would not have it
    keep_export_tables()
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()).eval()
    program = torch.export.export(module, (torch.ones(1, 2),))
    torch_onnx.dynamo(program, ["x"], ["y"])
    del deployfold


def _serve() -> None:
    _import_and_export()
    gc.collect()
    gc.freeze()  # a collection in a fork would look at, and copy, all that was imported here
    while line := sys.stdin.readline():
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _become_command(**order)
        signal.signal(signal.SIGALRM, lambda *_, child=child: os.kill(child, signal.SIGKILL))
        signal.alarm(_TIMEOUT)
        _, status = os.waitpid(child, 0)
        signal.alarm(0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become_command(
    words: list[str], cwd: str, environment: dict[str, str], streams: list[str]
) -> NoReturn:
    from deployfold.cli import main

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for descriptor, name in enumerate([os.devnull, *streams]):
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = ["deployfold", *words]
    code: object = 1
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    # The end of the interpreter, but for the destructors of C++ libraries: they would wait for
    # threads of the server's, which a fork does not have.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _serve()
