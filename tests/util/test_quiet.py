"""A command silences its libraries; the process of somebody else is left alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import logging, os, sys, warnings
from deployfold.util.quiet import claim_process, quiet, without_warnings
if {own}:
    claim_process()
logging.basicConfig(format="%(message)s")
with quiet(native=True):
    print("printed")
    print("complained", file=sys.stderr)
    logging.warning("logged")
    warnings.warn("warned")
    os.write(1, b"native")
with without_warnings():
    warnings.warn("second")
logging.warning("after")
print("end")
"""


@pytest.mark.parametrize("own", [False, True])
def test_only_a_process_of_our_own_is_silenced(own: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(own=own)], capture_output=True, text=True, check=True
    )
    shown = done.stdout + done.stderr
    words = ("printed", "complained", "logged", "warned", "native", "second")
    assert [word in shown for word in words] == [not own] * len(words)
    assert "after" in done.stderr
    assert done.stdout.endswith("end\n")
