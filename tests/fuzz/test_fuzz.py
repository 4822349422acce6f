"""Every reader reads damaged input; ``make test-fuzz`` runs 10,000 cases of each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fuzz.py")
TARGETS = re.findall(
    r'"([a-z-]+)"', SCRIPT.read_text().partition("TARGETS = (")[2].partition(")")[0]
)
HELPERS = SCRIPT.parents[1] / "support"
CASES = os.environ.get("DEPLOYFOLD_FUZZ_CASES", "200")


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_damaged_input_is_accepted_or_refused_in_a_sentence(target: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), target, CASES],
        env={**os.environ, "PYTHONPATH": str(HELPERS)},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.startswith(f"{target}: {CASES} cases")
