"""typer's group and command with two of its habits put right."""

from __future__ import annotations

from typing import Any

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

    def get_params(self, ctx: Any) -> Any:
        """Every option of the command."""
        return _put_right(super().get_params(ctx))


class Command(TyperCommand):
    """A command such as ``deployfold build``."""

    def get_params(self, ctx: Any) -> Any:
        """Every option of the command."""
        return _put_right(super().get_params(ctx))
