"""Build every model of the list with the installed ``deployfold``; results are kept, so it resumes.

python tests/real_models/real_run.py build/real           # what has no result yet
python tests/real_models/real_run.py build/real yolov8n   # these again
python tests/real_models/real_run.py build/real --quick   # without torch.onnx.export alone
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from case import Case
from listed import CASES
from packages import install
from real_table import render

HERE = Path(__file__).parent
DEPLOYFOLD = str(Path(sysconfig.get_path("scripts")) / "deployfold")
OPTIONS = ("--fp16", "--no-measure", "--threads", "1", "--no-color", "-o", "out")
SECONDS = 600
"""Given to each of the three processes of a case."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=Path("build/real"))
    parser.add_argument("cases", nargs="*", choices=[*CASES, []])
    parser.add_argument("--quick", action="store_true", help="leave out torch's export alone")
    options = parser.parse_args()
    results = options.results.resolve()
    wanted = options.cases or [one for one in CASES if not result_path(results, one).exists()]
    for number, name in enumerate(wanted, start=1):
        print(f"{number}/{len(wanted)} {name}: ", end="", flush=True)
        result = _built(CASES[name], results)
        _write(result, result_path(results, name))
        print(result.get("missing") or result.get("failed") or f"exit {result['exit']}", flush=True)
    for name, case in CASES.items():
        path = result_path(results, name)
        if options.quick or not path.exists() or case.net is None:
            continue
        result = json.loads(path.read_text())
        if "exit" in result and "alone" not in result:
            print(f"torch.onnx.export alone: {name}", flush=True)
            _write({**result, "alone": _alone(case, results)}, path)
    print(render(results))


def result_path(directory: Path, name: str) -> Path:
    """The file with the result of one case."""
    return directory / f"{name}.json"


def _write(result: dict[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1))
    temporary.replace(path)


def _alone(case: Case, results: Path) -> dict[str, Any]:
    """The same model by ``torch.onnx.export`` alone, in a process of its own."""
    folder = _empty(results / "models" / case.name)
    command = [sys.executable, str(HERE / "make.py"), case.name, str(folder), "--export"]
    done = _process(command, folder, results / "packages")
    shutil.rmtree(folder)
    return done


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _built(case: Case, results: Path) -> dict[str, Any]:
    """Install, make and build.

    Returns:
        ``missing`` or ``failed`` with a reason; or the exit code, time, memory and report.
    """
    packages = results / "packages"
    reason = install(case.library, packages)
    if reason is not None:
        return {"missing": reason}
    folder = _empty(results / "models" / case.name)
    make = [sys.executable, str(HERE / "make.py"), case.name, str(folder)]
    made = _process(make, folder, packages)
    if made["exit"] != 0:
        return {"failed": f"the file cannot be made: {made['last']}"}
    result = _process([DEPLOYFOLD, "build", *case.command, *OPTIONS], folder, packages)
    report = folder / "out" / "report.json"
    result["report"] = json.loads(report.read_text()) if report.exists() else None
    shutil.rmtree(folder)
    return result


def _process(command: list[str], folder: Path, packages: Path) -> dict[str, Any]:
    """Run a command; return its exit code, CPU seconds and peak memory, children included."""
    paths = os.pathsep.join((str(packages), str(HERE)))
    variables = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "1",
                 "COLUMNS": "100", "OMP_NUM_THREADS": "1"}  # fmt: skip
    log = folder / "log.txt"
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=stream, stderr=stream)
        deadline = time.monotonic() + SECONDS
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(0.2)
        process.returncode = os.waitstatus_to_exitcode(status)
    text = log.read_text()
    return {
        "exit": process.returncode,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "last": next((line for line in reversed(text.splitlines()) if line.strip()), ""),
        "output": text,
    }


if __name__ == "__main__":
    main()
