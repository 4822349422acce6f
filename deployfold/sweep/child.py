"""Runs a ``deployfold`` command that ends when its parent process ends.

Standard input is a pipe without data. When the parent dies, the pipe closes. The command is then
interrupted as by Ctrl-C: it cleans up and exits.
"""

from __future__ import annotations

import os
import signal
import sys

from deployfold.cli import main as run_command
from deployfold.util.child import at_end_of_parent


def main(words: list[str]) -> None:
    """Run ``deployfold WORDS``.

    Raises:
        SystemExit: at the end, with the exit code.
    """
    sys.argv = ["deployfold", *words]
    at_end_of_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    run_command()
