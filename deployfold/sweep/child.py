"""Runs a ``deployfold`` command that ends when its parent process ends.

Standard input is a pipe without data. When the parent dies, the pipe closes. The command is then
interrupted as by Ctrl-C: it cleans up and exits.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from deployfold.cli import main as run_command


def _leave_with_parent() -> None:
    # A read of sys.stdin in a thread would hold a lock that the interpreter needs at exit.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(words: list[str]) -> None:
    """Run ``deployfold WORDS``.

    Raises:
        SystemExit: at the end, with the exit code.
    """
    sys.argv = ["deployfold", *words]
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    run_command()
