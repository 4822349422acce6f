"""The command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations

_RECURSION = 4_000
"""Nested Python calls; Python's default of 1,000 ends the trace of 200 modules in each other."""


def main() -> None:
    """The ``deployfold`` command."""
    import sys

    from deployfold.errors import ExitCode
    from deployfold.util.quiet import claim_process

    from .streams import Lossy, discard_stdout, open_closed_streams, write_alike

    open_closed_streams()
    claim_process()
    # Models of many nested modules need it.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), _RECURSION))
    try:
        _use_utf8()
        write_alike()
        from .app import app

        app()
    except KeyboardInterrupt:  # before or after a command ran: session.py hears it within one
        print("Error: Interrupted.", file=Lossy(sys.stderr))
        raise SystemExit(int(ExitCode.INTERRUPTED)) from None
    except OSError as error:  # of --help and --version, which have no session
        discard_stdout()
        print(f"Error: Cannot write the output: {error.strerror or error}.", file=Lossy(sys.stderr))
        raise SystemExit(int(ExitCode.USAGE)) from None
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # --help into a pipe that nobody reads
            discard_stdout()
            raise SystemExit(int(ExitCode.OK)) from None
        raise


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding.

    Every library that files are given to takes their paths as UTF-8. The terminal keeps its own
    encoding, but for ASCII: the C locale says nothing about the terminal.
    """
    import codecs
    import os
    import sys

    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        shown = sys.stdout.encoding.lower()
        if codecs.lookup(shown).name not in ("ascii", "utf-8"):
            os.environ.setdefault("PYTHONIOENCODING", shown)
        os.execv(sys.executable, sys.orig_argv)
