"""Run again what the README and ``docs/`` show as the output of a command: ``make readme-check``.

    python tests/benchmarks/readme_check.py

A block of the language ``console`` begins with ``$ COMMAND``, and the rest is what that printed.
The blocks are for figures that any machine finds again within a minute. Figures that depend on the
machine, or take longer, name their command in the text, and are not run here. Exit code 1 if an
output differs.
"""

from __future__ import annotations

import difflib
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def shown() -> list[tuple[str, str, str]]:
    """Page, command and output of every block."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [
        (page.name, command, output)
        for page in pages
        for command, output in re.findall(
            r"^```console\n\$ (.+)\n((?:.*\n)*?)```$", page.read_text("utf-8"), re.MULTILINE
        )
    ]


def printed(command: str) -> str:
    """The standard output of a command, run in the root with this Python."""
    words = shlex.split(command)
    program = [sys.executable] if words[0] == "python" else [sys.executable, "-m", words[0]]
    done = subprocess.run(
        [*program, *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout if done.returncode == 0 else f"{done.stdout}{done.stderr}"


def main() -> int:
    """Run every command and print what differs."""
    differing = 0
    for page, command, expected in shown():
        start = time.perf_counter()
        found = printed(command)
        same = found.strip() == expected.strip()
        differing += not same
        word = "as shown" if same else "DIFFERS"
        print(f"{page}: {command}: {word} ({time.perf_counter() - start:.0f} s)", flush=True)
        if not same:
            lines = (expected.strip().splitlines(), found.strip().splitlines())
            print("\n".join(difflib.unified_diff(*lines, "shown", "printed", lineterm="")))
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
