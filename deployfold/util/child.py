"""Runs a function of deployfold in a child process, without importing the user's files by mistake.

The user's directory must not be on the child's path, because Python would import a ``torch.py`` or
``json.py`` from it. Python 3.10 has no ``-P``, and ``-I`` would also ignore ``PYTHONPATH`` and the
user's site-packages. So the child removes the directory that ``-c`` puts on the path. The child
imports deployfold from the directory of this process's deployfold, and removes that directory,
possibly a checkout, from the path before any other import.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, AnyStr

import deployfold

_CODE = """\
import sys
sys.path[:] = [sys.argv[1], *filter(None, sys.path)]
import deployfold
del sys.path[0]
from {module} import {function}
sys.exit({function}(sys.argv[2:]))
"""


def command(module: str, function: str, *words: str) -> list[str]:
    """The command line that calls ``function`` of ``module`` with a list of words.

    The function's result is the exit code. Run the command with :func:`environment`.
    """
    root = str(Path(deployfold.__file__).resolve().parent.parent)
    code = _CODE.format(module=module, function=function)
    return [sys.executable, "-c", code, root, *words]


def pipe(stream: IO[AnyStr] | None) -> IO[AnyStr]:
    """A stream of a ``Popen`` object, whose type cannot say that it was started with ``PIPE``.

    Raises:
        ValueError: the child was started without this pipe.
    """
    if stream is None:
        raise ValueError("The child was started without this pipe.")
    return stream


def at_end_of_parent(act: Callable[[], object]) -> None:
    """Call ``act`` in a thread when standard input closes, which shows that the parent has died.

    The parent keeps a pipe without data open. ``read(2)`` on the descriptor waits for its end,
    because a buffered reader would hold a lock that the interpreter needs at exit.
    """

    def wait() -> None:
        while os.read(0, 4096):
            pass
        act()

    threading.Thread(target=wait, daemon=True).start()


def environment() -> dict[str, str]:
    """This process's environment, with absolute paths in ``PYTHONPATH``."""
    # Drop empty entries, which mean the working directory.
    path = os.environ.get("PYTHONPATH", "")
    entries = [str(Path(entry).absolute()) for entry in path.split(os.pathsep) if entry]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entries)}
