"""The code in a bundle: ``run.py``, what ``run.py`` imports of deployfold, and C++ programs.

``deployfold finish`` and the calibration use the same modules. These modules need numpy, and Pillow
for pictures. A search through the import statements finds the modules.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from importlib.resources import files

from deployfold import __version__

from .manifest import RUNNER

LIBRARY = "lib"
CPP = "cpp"
_PACKAGE = "deployfold"


def device_files() -> dict[str, bytes]:
    """The content of every file, by its name in the bundle."""
    root = files(_PACKAGE)
    runner = (root / "bundle" / "device" / RUNNER).read_bytes()
    found: dict[str, bytes] = {}
    waiting = list(_imports(list(ast.walk(ast.parse(runner))), "deployfold.bundle.device"))
    while waiting:
        module = waiting.pop()
        parts = module.split(".")[1:]
        name = "/".join((LIBRARY, _PACKAGE, *parts)) + ".py"
        if name in found or not parts:
            continue
        path = root.joinpath("/".join(parts) + ".py")
        if not path.is_file():
            continue  # the import names an attribute, and the list also has its module
        found[name] = path.read_bytes()
        # Imports inside functions belong to builds; no device calls these functions.
        waiting += _imports(ast.parse(found[name]).body, module.rpartition(".")[0])
    for name in list(found):
        folders = name.split("/")[1:-1]
        for depth in range(1, len(folders) + 1):
            # The real packages import all of deployfold.
            package = "/".join((LIBRARY, *folders[:depth], "__init__.py"))
            found[package] = b'"""The parts of deployfold that run.py needs."""\n'
    version = f'"""The parts of deployfold that run.py needs."""\n\n__version__ = "{__version__}"\n'
    found[f"{LIBRARY}/{_PACKAGE}/__init__.py"] = version.encode()
    found[RUNNER] = runner
    return found


def cpp_files() -> dict[str, bytes]:
    """The C++ programs that run artifacts without Python, by their names in the bundle."""
    folder = files(_PACKAGE) / "bundle" / CPP
    return {f"{CPP}/{one.name}": one.read_bytes() for one in folder.iterdir() if one.is_file()}


def _imports(nodes: Sequence[ast.AST], package: str) -> Iterator[str]:
    """The modules of deployfold, and the names in them, that these statements import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) + 1 - node.level] if node.level else []
            module = ".".join((*base, *([node.module] if node.module else [])))
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] == _PACKAGE)
