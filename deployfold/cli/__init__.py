"""The command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations


def main() -> None:
    """The ``deployfold`` command."""
    from .app import app

    app()
