"""typer's group and command with some of its habits put right."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from deployfold.errors import ExitCode


def _put_right(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            if param.default is None:
                # typer imports pydantic, a tenth of a second, to read the None of a flag that was
                # not given. It does not for False, and --help stays fast.
                param.default = False
            param.metavar = ""  # a flag takes no value: --fp16, and not --fp16 <bool>
    return params


def _print_usage_error(error: Any) -> int:
    """Print an error of the command line's parser; returns the exit code."""
    from rich.console import Console

    from .session import print_error

    context = getattr(error, "ctx", None)
    if not error.format_message():  # a group without a command has printed its help
        return int(ExitCode.USAGE)
    # pydantic, which typer has values checked by, begins some reasons so.
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    hint = f"See {context.command_path} --help." if context is not None else None
    print_error(Console(stderr=True, highlight=False), f"{message}.", hint)
    return int(ExitCode.USAGE)


class Group(TyperGroup):
    """The ``deployfold`` command, and each command that has commands of its own."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line; usage errors are one sentence and a hint, as all others are.

        Raises:
            SystemExit: at the end, with the exit code.
            KeyboardInterrupt: Ctrl-C outside a session.
        """
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except Exception as error:
            if not hasattr(error, "format_message"):  # click's own errors have it
                raise
            raise SystemExit(_print_usage_error(error)) from None
        if code == ExitCode.INTERRUPTED:  # what typer makes of Ctrl-C; sessions end by SystemExit
            raise KeyboardInterrupt
        raise SystemExit(code)

    def get_params(self, ctx: Any) -> Any:
        """Every option of the command."""
        return _put_right(super().get_params(ctx))


class Command(TyperCommand):
    """A command such as ``deployfold build``."""

    def get_params(self, ctx: Any) -> Any:
        """Every option of the command."""
        return _put_right(super().get_params(ctx))
