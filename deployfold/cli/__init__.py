"""The command line. No heavy library is imported before a command runs."""

from __future__ import annotations

_RECURSION = 4_000
"""Limit of nested Python calls. With the default of 1,000, tracing 200 nested modules fails."""

_NEW_OBJECTS = 100_000
"""New objects after which Python searches for cycles. With the default of 700, the searches take a
fifth of the time of importing torch."""


def main() -> None:
    """The ``deployfold`` command."""
    import gc
    import sys

    from deployfold.errors import ExitCode
    from deployfold.util.quiet import claim_process

    from .streams import Lossy, discard_stdout, open_closed_streams, write_alike

    open_closed_streams()
    claim_process()
    gc.set_threshold(_NEW_OBJECTS, 20, 20)
    # Models with many nested modules need a higher limit.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), _RECURSION))
    try:
        _use_utf8()
        write_alike()
        from .app import app

        app()
    except KeyboardInterrupt:  # outside a command; inside one, session.py handles it
        print("Error: Interrupted.", file=Lossy(sys.stderr))
        raise SystemExit(int(ExitCode.INTERRUPTED)) from None
    except OSError as error:  # from --help and --version, which have no session
        discard_stdout()
        print(f"Error: Cannot write the output: {error.strerror or error}.", file=Lossy(sys.stderr))
        raise SystemExit(int(ExitCode.USAGE)) from None
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # --help into a closed pipe
            discard_stdout()
            raise SystemExit(int(ExitCode.OK)) from None
        raise
    finally:
        gc.freeze()  # else Python searches all objects of torch three times while it ends


def _use_utf8() -> None:
    """Restart in Python's UTF-8 mode if the locale has another encoding.

    All libraries that open files take paths as UTF-8. The terminal keeps the locale's encoding,
    except for ASCII, because the C locale does not describe the terminal.
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
