"""Imports modules that the user names on the command line, never those that a checkpoint names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from deployfold.errors import UsageError
from deployfold.util.shared import SharedChange


def import_named(package: str, name: str, *, hint: str) -> Any:
    """Import ``package``, also from the working directory, and return its attribute ``name``.

    Raises:
        UsageError: the import fails for any reason, or the module has no such attribute.
    """
    with working_directory_importable():
        try:
            item: Any = importlib.import_module(package)
            for part in name.split("."):
                item = getattr(item, part)
        except AttributeError as error:
            raise UsageError(f"{package} has no {name}.", hint=hint) from error
        except (Exception, SystemExit) as error:  # the user's module can run any code
            reason = f"{type(error).__name__}: {error}"
            raise UsageError(f"{package} cannot be imported: {reason}.", hint=hint) from error
    return item


def import_function(name: str, *, hint: str) -> Callable[..., Any]:
    """The function ``package.module:function``; see :func:`import_named`."""
    package, _, attribute = name.partition(":")
    function: Callable[..., Any] = import_named(package, attribute, hint=hint)
    if not callable(function):
        raise UsageError(f"{name} is not a function.", hint=hint)
    return function


def working_directory_importable() -> AbstractContextManager[None]:
    """Put the working directory first on ``sys.path``, as ``python script.py`` would."""
    return _IMPORTABLE.made()


def _insert() -> Callable[[], None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)

    def remove() -> None:
        with suppress(ValueError):  # the imported code has taken it away
            sys.path.remove(here)

    return remove


_IMPORTABLE = SharedChange(_insert)
