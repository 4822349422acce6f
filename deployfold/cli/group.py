"""Adapts typer's group and command: fast and short help, and errors in deployfold's style."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand, TyperGroup

from deployfold.errors import ExitCode

HELP_ALL = "help_all"
"""The parameter of ``--help-all``, and the key of a context that it sets."""


def _plain(text: str | None) -> str | None:
    """The text with escaped square brackets, which rich would interpret as markup.

    Each paragraph becomes one line, which the terminal wraps, unless the paragraph is indented.
    """
    if text is None:
        return None
    summary, *paragraphs = text.split("\n\n")
    # typer takes the indentation of the second paragraph away, unless that paragraph is empty.
    paragraphs = [summary, *[""] * bool(paragraphs), *paragraphs]
    lines = (one if "\n " in one else one.replace("\n", " ") for one in paragraphs)
    return re.sub(r"(?<!\\)\[(?=[a-z#/@\[])", r"\\[", "\n\n".join(lines))


def _put_right(params: list[Any]) -> list[Any]:
    for param in params:
        param.help = _plain(getattr(param, "help", None))
        if param.param_type_name == "argument":
            # The name tells what it takes: show DIR|FILE, not DIR|FILE <list[Path]>.
            param.display_type_rich = lambda ctx: None
        if getattr(param, "is_flag", False):
            if param.default is None:
                # With the default None, typer imports pydantic, which takes 0.1 s; with False, it
                # does not, and --help stays fast.
                param.default = False
            param.metavar = ""  # show a flag as --fp16, not as --fp16 <bool>
    if any(getattr(param, "rich_help_panel", None) == "Output" for param in params):
        for param in params:
            if param.name == "help":  # next to --help-all, because a separate panel takes two lines
                param.rich_help_panel = "Output"
    return params


def _shorten(param: Any, *, hide: bool) -> None:
    """Reduce a parameter's help to its first clause, and its flag to one spelling."""
    if hide:
        param.hidden = True
    if param.help:
        param.help = re.split(r"[;.](?: |$)", param.help, maxsplit=1)[0] + "."
    param.show_default = False
    long = [one for one in param.opts if one.startswith("--")]
    param.opts = [one for one in param.opts if one not in long[1:]]


def _print_usage_error(error: Any) -> int:
    """Print an error of the command line's parser, and return the exit code."""
    from rich.console import Console

    from .session import print_error, write_error
    from .streams import Lossy

    context = getattr(error, "ctx", None)
    if not error.format_message():  # a group without a command has printed its help
        return int(ExitCode.USAGE)
    # typer checks values with pydantic, which begins some reasons with "Value error, ".
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    message += "" if message.endswith("?") else "."
    hint = f"See {context.command_path} --help." if context is not None else None
    lossy: Any = Lossy(sys.stderr)
    print_error(Console(file=lossy, stderr=True, highlight=False), message, hint)
    if "--json" in sys.argv[1:]:
        write_error(sys.stdout, message, hint, ExitCode.USAGE)
    return int(ExitCode.USAGE)


class Group(TyperGroup):
    """The ``deployfold`` command, and each command with subcommands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.help = _plain(self.help)

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line; usage errors have a sentence and a hint, like all other errors.

        Raises:
            SystemExit: at the end, with the exit code.
            KeyboardInterrupt: Ctrl-C outside a session.
        """
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except Exception as error:
            if not hasattr(error, "format_message"):  # only click's errors have this method
                raise
            raise SystemExit(_print_usage_error(error)) from None
        if code == ExitCode.INTERRUPTED:  # typer's result for Ctrl-C; sessions raise SystemExit
            raise KeyboardInterrupt
        raise SystemExit(code)

    def get_params(self, ctx: Any) -> Any:
        """Every option of the command."""
        return _put_right(super().get_params(ctx))


class Command(TyperCommand):
    """A command such as ``deployfold build``.

    Attributes:
        uncommon: names of the parameters that only ``--help-all`` lists.
    """

    def __init__(self, name: str | None, **settings: Any) -> None:
        super().__init__(name, **settings)
        self.help = _plain(self.help)
        self.uncommon: Iterable[str] = ()

    def get_params(self, ctx: Any) -> Any:
        """Every option of the command."""
        return _put_right(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help: the common options in short, or all options with ``--help-all``.

        The function changes the parameters for good, because the process ends afterwards.
        """
        if self.uncommon and not ctx.meta.get(HELP_ALL):
            for param in self.get_params(ctx):
                _shorten(param, hide=param.name in self.uncommon)
        super().format_help(ctx, formatter)


def print_whole_help(context: Any, value: bool) -> None:
    """The callback of ``--help-all``."""
    if value:
        from typer import Exit

        context.meta[HELP_ALL] = True
        context.command.format_help(context, context.make_formatter())
        raise Exit
