"""typer's group and command with some of its habits put right."""

from __future__ import annotations

from typing import Any

from typer import Abort, Exit
from typer.core import TyperCommand, TyperGroup


def _put_right(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            if param.default is None:
                # typer imports pydantic, a tenth of a second, to read the None of a flag that was
                # not given. It does not for False, and --help stays fast.
                param.default = False
            param.metavar = ""  # a flag takes no value: --fp16, and not --fp16 <bool>
    return params


class Group(TyperGroup):
    """The ``deployfold`` command itself."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run it.

        Raises:
            SystemExit: at its end, with the exit code.
            KeyboardInterrupt: Ctrl-C outside of a session, of which typer makes a silent exit.
        """
        try:
            return super().main(*args, **options)
        except SystemExit as end:
            why = end.__context__
            # A session ends by a SystemExit of its own, after it has said so.
            if isinstance(why, (Exit, Abort)) and isinstance(why.__cause__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise

    def get_params(self, ctx: Any) -> Any:
        """Every option of the command."""
        return _put_right(super().get_params(ctx))


class Command(TyperCommand):
    """A command such as ``deployfold build``."""

    def get_params(self, ctx: Any) -> Any:
        """Every option of the command."""
        return _put_right(super().get_params(ctx))
