"""Fold every network of the zoo, each in a new process. Kept results let a run resume.

python tests/zoo/gather.py build/zoo --jobs 2
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

HERE = Path(__file__).parent
SECONDS = 600
"""Given to one network, for all folders and the judge together."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=Path("build/zoo"))
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    pending = [
        name for name in listed(options.results) if not result_path(options.results, name).exists()
    ]
    # Large networks stand side by side in the list: shuffled, two of them seldom meet.
    random.Random(0).shuffle(pending)
    with ThreadPoolExecutor(options.jobs) as pool:
        running = {pool.submit(_one, name, options.results): name for name in pending}
        for done, future in enumerate(as_completed(running), start=1):
            print(f"{done}/{len(pending)} {running[future]}: {future.result()}", flush=True)


def listed(directory: Path) -> list[str]:
    """The names of all networks; the list is kept, because the search takes a minute."""
    listing = directory / "names.json"
    if not listing.exists():
        sys.path.insert(0, str(HERE))
        from nets import names

        listing.write_text(json.dumps(names()))
    found: list[str] = json.loads(listing.read_text())
    return found


def result_path(directory: Path, name: str) -> Path:
    """The file with the result of one network."""
    return directory / f"{name.replace(':', '.')}.json"


def _one(name: str, directory: Path) -> str:
    command = [sys.executable, str(HERE / "one.py"), name, str(result_path(directory, name))]
    try:
        subprocess.run(command, check=True, timeout=SECONDS, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        return f"no result within {SECONDS} s"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        return f"no result: {lines[-1][:200]}"
    return "done"


if __name__ == "__main__":
    main()
