"""The ``deployfold`` command: its options and its subcommands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from deployfold import __version__

from .discovery import EXIT_CODES, load, names, summary
from .group import Command, Group


class _Loaded(Mapping[str, Any]):
    """The commands by name, loaded on demand."""

    def __getitem__(self, name: str) -> Any:
        if name not in names():
            raise KeyError(name)
        return load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(names())

    def __len__(self) -> int:
        return len(names())


class Commands(Group):
    """The group of all commands; ``--help`` reads only their summaries."""

    _summaries = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = _Loaded()

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands."""
        return list(names())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command with this name; ``None`` without one."""
        if self._summaries and cmd_name in names():
            return Command(cmd_name, help=summary(cmd_name))
        return self.commands.get(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, with one line for each command."""
        self._summaries = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._summaries = False


app = typer.Typer(
    name="deployfold",
    cls=Commands,
    help="Fold BatchNorm losslessly, export, build TensorRT engines, and compare every artifact.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"deployfold {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass
