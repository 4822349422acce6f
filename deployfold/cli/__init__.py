"""The command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations


def main() -> None:
    """The ``deployfold`` command."""
    import sys

    from deployfold.errors import ExitCode

    try:
        from .app import app

        app()
    except KeyboardInterrupt:  # before or after a command ran: session.py hears it within one
        raise SystemExit(int(ExitCode.INTERRUPTED)) from None
    except OSError as error:  # of --help and --version, which have no session
        print(f"Error: Cannot write the output: {error.strerror or error}.", file=sys.stderr)
        raise SystemExit(int(ExitCode.USAGE)) from None
