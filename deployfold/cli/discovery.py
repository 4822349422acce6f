"""Finds the commands, and imports a command only when it is needed."""

from __future__ import annotations

import inspect
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from .group import Command

_FOLDER = Path(__file__).parent / "commands"

EXIT_CODES = (
    "Exit codes: 0 done · 1 internal error · 2 usage · 3 loading · 4 folding or its proof · "
    "5 export or lowering · 6 compiling · 7 past a limit · 8 measuring · 9 a precision loses its "
    "accuracy · 10 bundle · 11 builds of a sweep · 130 interrupted. More: deployfold explain CODE."
)


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """The names of all commands, in alphabetical order."""
    found = (path.stem for path in _FOLDER.glob("*.py"))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def summary(name: str) -> str:
    """The first line of a command's help, without importing the command."""
    with (_FOLDER / f"{name}.py").open(encoding="utf-8") as file:
        return file.readline().strip().strip('"')


@cache
def load(name: str) -> Any:
    """Import and make a command, or a group of commands.

    Raises:
        ModuleNotFoundError: there is no such command.
    """
    module = import_module(f"{__package__}.commands.{name}")
    made = getattr(module, name)
    help = inspect.cleandoc(module.__doc__ or "")
    settings: dict[str, Any] = {
        "add_completion": False,
        "rich_markup_mode": "rich",
        "context_settings": {"help_option_names": ["-h", "--help"]},
    }
    if isinstance(made, typer.Typer):
        app = typer.Typer(**settings)
        app.add_typer(made, name=name, help=help, epilog=EXIT_CODES)
        found: Any = get_command(app)
        return found.commands[name]
    app = typer.Typer(**settings)
    app.command(name, cls=Command, help=help, epilog=EXIT_CODES)(made)
    command: Any = get_command(app)
    command.uncommon = frozenset(getattr(made, "uncommon", ()))
    return command
