"""Runs a ``deployfold`` command that ends when its parent process ends.

Standard input is a pipe that nobody writes to. When the parent dies in any way, the pipe closes.
The command is then interrupted as by Ctrl-C: it cleans up and exits.
"""

from __future__ import annotations

import os
import signal
import threading

from deployfold.cli import main


def _leave_with_parent() -> None:
    # Not sys.stdin: its lock, held by a thread, aborts the interpreter when it shuts down.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    main()
