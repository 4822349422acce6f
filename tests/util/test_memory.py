from __future__ import annotations

import os
import subprocess
import sys

import pytest

from deployfold.util.memory import available_bytes

CYCLE = """
import gc
import numpy as np
from deployfold.util import memory
from deployfold.util.memory import peak_bytes, forget_peak, release

class Node:
    def __init__(self):
        self.weights, self.graph = np.ones(1 << 26), self

gc.disable()  # else it depends on how many objects were made before
memory._WORTH_BYTES = 1 << 28  # a test should not need 2 GiB
Node()  # 0.5 GiB, which refers to itself
forget_peak()
assert peak_bytes() > 1 << 29
release()
forget_peak()
print(peak_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak cannot be forgotten")
def test_reference_cycles_are_freed() -> None:
    done = subprocess.run([sys.executable, "-c", CYCLE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1 << 28


def test_available_memory_is_less_than_the_machine_has() -> None:
    available = available_bytes()
    assert available is not None
    assert 0 < available <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
