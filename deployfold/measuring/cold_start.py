"""Measures the cold start and peak memory of a file in its runtime, in fresh processes.

``python -m deployfold.measuring.cold_start RUNTIME PATH INPUTS [SETTINGS]`` loads ``PATH`` in the
runtime with the key ``RUNTIME`` and runs it once on the tensors that ``torch.save`` wrote to
``INPUTS``. The command prints one JSON object: ``load_ms``, ``first_ms`` and ``peak_bytes``, or
``error``. ``SETTINGS`` is the JSON of :class:`~deployfold.runtimes.settings.RunSettings`.

The clock starts after the imports of Python, torch and the runtime's library. They take seconds,
and a running server has them loaded. The file is in the page cache, as after a first run: the
result does not include the disk.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from deployfold.events import Emit, StageProgress, ignore
from deployfold.reporting.row import ColdStart
from deployfold.runtimes import RunSettings, runtime_by_key
from deployfold.runtimes.failures import summary
from deployfold.runtimes.protocol import Inputs, Runner
from deployfold.util import child
from deployfold.util.memory import forget_peak, peak_bytes

SETTINGS = TypeAdapter(RunSettings)
"""Reads and writes the settings as JSON."""
RUNS = 3
TIMEOUT = 600.0


def opened_file(runner: Runner | None) -> tuple[str, RunSettings] | None:
    """The runtime's key and the settings of a runner's file; ``None`` for a model in memory."""
    key: str | None = getattr(runner, "key", None)
    return None if key is None else (key, getattr(runner, "settings", RunSettings()))


def cold_start(
    runtime: str,
    path: Path,
    inputs: Inputs,
    *,
    settings: RunSettings | None = None,
    runs: int = RUNS,
    timeout: float = TIMEOUT,
    emit: Emit = ignore,
) -> ColdStart:
    """Load ``path`` and run it once, in ``runs`` processes one after the other.

    Args:
        runtime: the key of a runtime; see :func:`deployfold.runtimes.runtime_by_key`.
        settings: the settings of the run; torch uses ``threads`` too.
        runs: the number of processes.
        timeout: seconds for one process.
        emit: receives a :class:`StageProgress` of stage ``"measure"`` for each process.
    """
    import torch

    from deployfold.runtimes.tensors import to_tensors

    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="deployfold-") as folder:
        feed = Path(folder) / "inputs.pt"
        torch.save(list(to_tensors(inputs)), feed)
        how = SETTINGS.dump_json(settings or RunSettings()).decode()
        words = [runtime, str(path.absolute()), str(feed), how]
        for number in range(1, runs + 1):
            doing = f"cold start of {path.name}, {number} of {runs}"
            emit(StageProgress("measure", doing, (number - 1) / runs))
            answer = _ask(words, folder, timeout)
            if "error" in answer:
                return ColdStart(not_measured=str(answer["error"]))
            found.append(answer)
    peaks = [one["peak_bytes"] for one in found if one["peak_bytes"] is not None]
    return ColdStart(
        load_ms=statistics.median(one["load_ms"] for one in found),
        first_ms=statistics.median(one["first_ms"] for one in found),
        total_ms=statistics.median(one["load_ms"] + one["first_ms"] for one in found),
        peak_bytes=int(statistics.median(peaks)) if peaks else None,
        runs=runs,
    )


def _ask(words: Sequence[str], folder: str, timeout: float) -> dict[str, Any]:
    """Run one process; its JSON, or an ``error`` if it prints none."""
    try:
        done = subprocess.run(
            child.command("deployfold.measuring.cold_start", "main", *words),
            cwd=folder,
            env=child.environment(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"the process took longer than {timeout:g} s"}
    with suppress(ValueError, IndexError):
        answer = json.loads(done.stdout.splitlines()[-1])
        if isinstance(answer, dict):
            return answer
    return {"error": f"the process ended with code {done.returncode}"}


def main(arguments: Sequence[str]) -> int:
    """Run the worker; see the module's docstring."""
    key, path, feed, *rest = arguments
    try:
        settings = SETTINGS.validate_json(rest[0]) if rest else RunSettings()
        answer = _measure(key, Path(path), Path(feed), settings)
    except Exception as error:
        answer = {"error": summary(error)}
    print(json.dumps(answer))
    return 1 if "error" in answer else 0


def _measure(key: str, path: Path, feed: Path, settings: RunSettings) -> dict[str, Any]:
    import torch

    runtime = runtime_by_key(key)
    with suppress(ImportError):  # the runner reports a missing module
        import_module(runtime.module)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    inputs = torch.load(feed, weights_only=True)
    runner = runtime.open(path, settings)
    forget_peak()
    before = peak_bytes()
    start = time.perf_counter()
    runner.load()
    loaded = time.perf_counter()
    runner.run(inputs)
    end = time.perf_counter()
    after = peak_bytes()
    grown = None if before is None or after is None else max(0, after - before)
    return {
        "load_ms": 1e3 * (loaded - start),
        "first_ms": 1e3 * (end - loaded),
        "peak_bytes": grown,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
