"""A wall clock that goes backwards, or that starts in 1970 as on a device without a battery."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fault_commands import run
from fault_whole import check_whole, files_of, temporaries
from test_signals import completes

pytestmark = pytest.mark.slow
COMPILER = shutil.which("cc") or shutil.which("gcc")
CLOCKS = {
    "an hour backwards in every second": {"CLOCK_RATE": "-3600"},
    "from 1970 on": {"CLOCK_RATE": "1", "CLOCK_START": "1000"},
}


@pytest.fixture(scope="module")
def preload(tmp_path_factory: pytest.TempPathFactory) -> str:
    if COMPILER is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


@pytest.mark.parametrize("clock", CLOCKS)
def test_the_clock_is_wrong(preload, clock):
    code = "import time; print(time.time()); time.sleep(0.1); print(time.time())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"LD_PRELOAD": preload, **CLOCKS[clock]}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second = map(float, done.stdout.split())
    if "START" in str(CLOCKS[clock]):
        assert 1000 <= first < second < 2000
    else:
        assert first - second > 100


def test_wrong_clock(command, given, undisturbed, case, preload, count):
    wanted = undisturbed(command)
    for changes in CLOCKS.values():
        out = case()
        command.prepare(given, out)
        ended = run(command, given, out, LD_PRELOAD=preload, **changes)
        assert (ended.code, ended.error()) == (0, ""), (changes, ended)
        assert set(files_of(out)) == set(wanted.files)
        check_whole(out, wanted, fixed=command.fixed)
        assert temporaries(out) == []
        completes(command, given, out, wanted)  # with a clock that is right again
    count(command.name, "wrong clock", len(CLOCKS), "; ".join(CLOCKS))
