"""The zoo's results as a table, in Markdown.

python tests/zoo/table.py build/zoo
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

FOLDERS = ("torch.fx fuse", "fasterai", "torch.jit.freeze", "deployfold")
WRONG = 1e-3


def render(directory: Path) -> str:
    """The comparison of every folder, then what deployfold left and why."""
    results = [
        json.loads(path.read_text())
        for path in sorted(directory.glob("*.json"))
        if path.name != "names.json"
    ]
    total = sum(result["batchnorms"] for result in results)
    ours = [result["deployfold"] for result in results]
    judged = sum(item.get("judged", 0) for item in ours)
    missed = sum(len(item.get("missed", ())) for item in ours)
    foldable = sum(item.get("removed", 0) for item in ours) + missed
    lines = [
        f"{len(results)} networks, {total} BatchNorms with seeded random statistics, "
        f"{foldable} of them foldable: removed by deployfold, or judged absorbable by the "
        f"independent check ({missed} of {judged} judged).",
        "",
        "| folder | foldable removed | fails on | left unchanged | wrong |",
        "|---|---|---|---|---|",
    ]
    for folder in FOLDERS:
        items = [result[folder] for result in results if folder in result]
        if items:
            own = [result.get("conditioning", 0.0) for result in results if folder in result]
            lines.append(_row(folder, items, own, foldable))
    merged = sum(item.get("merged", 0) for item in ours)
    branches = sum(item.get("branches", 0) for item in ours)
    relatives = [item.get("relative") or 0.0 for item in ours]
    worst = max((value for value in relatives if value <= 1e-9), default=0.0)
    ill = sum(value > 1e-9 for value in relatives)
    lines += [
        "",
        f"Of deployfold's, {merged} BatchNorms and {branches} convolutions went into parallel "
        f"branches. Worst relative difference in float64: {worst:.1e}, but for {ill} networks "
        "that differ as far from themselves when their weights change in the last bits.",
        "",
        f"CPU time: {sum(result.get('cpu_seconds', 0.0) for result in results) / 60:.0f} min.",
        "",
        "| left | reason |",
        "|---|---|",
    ]
    reasons = Counter(_general(reason) for item in ours for reason in item.get("left", {}).values())
    lines += [f"| {count} | {reason} |" for reason, count in reasons.most_common(15)]
    return "\n".join(lines)


def _row(folder: str, items: list[dict[str, Any]], own: list[float], foldable: int) -> str:
    failed = sum("failed" in item for item in items)
    # NaN compares false, so a result that is not a number counts as wrong.
    right = [
        item
        for item, conditioning in zip(items, own, strict=True)
        if (item.get("relative") or 0.0) <= max(WRONG, 10 * conditioning)
    ]
    wrong = len(items) - failed - sum("failed" not in item for item in right)
    removed = sum(item.get("removed", 0) for item in right)
    unchanged = sum(item.get("removed") == 0 for item in items)
    # Rounded down: 100 % must mean all.
    share = math.floor(1000 * removed / foldable) / 10 if foldable else 0.0
    return f"| {folder} | {removed} ({share:.1f} %) | {failed} | {unchanged} | {wrong} |"


def _general(reason: str) -> str:
    """A reason without the names of this network's modules."""
    words = reason.split("; ")[0].split()
    return " ".join(word for word in words if "." not in word and not word[-1:].isdigit())[:100]


if __name__ == "__main__":
    print(render(Path(sys.argv[1] if len(sys.argv) > 1 else "build/zoo")))
