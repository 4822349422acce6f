"""How a child process runs a function of deployfold, and imports nothing else by mistake.

The user's directory must not be on the child's path, where a ``torch.py`` or ``tensorrt.py`` would
be imported. Python 3.10 has no ``-P``, and ``-I`` would also drop ``PYTHONPATH`` and the user's
site-packages. So the child stands in an empty directory: ``-c`` puts that one on the path. It takes
deployfold from where this process has it, and that directory, a checkout perhaps, leaves the path
again before anything else is imported.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import deployfold

_CODE = """\
import sys
sys.path.insert(0, sys.argv[1])
import deployfold
del sys.path[0]
from {module} import {function}
sys.exit({function}(sys.argv[2:]))
"""


def command(module: str, function: str, *words: str) -> list[str]:
    """The command line that calls ``function`` of ``module`` with a list of words.

    What it returns is the exit code. Run it in an empty directory and in :func:`environment`.
    """
    root = str(Path(deployfold.__file__).resolve().parent.parent)
    code = _CODE.format(module=module, function=function)
    return [sys.executable, "-c", code, root, *words]


def environment() -> dict[str, str]:
    """This process's environment, with a ``PYTHONPATH`` that means the same in any directory."""
    # An empty entry means the working directory, for Python and for the user's mistake alike.
    path = os.environ.get("PYTHONPATH", "")
    entries = [str(Path(entry).absolute()) for entry in path.split(os.pathsep) if entry]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entries)}
