"""The results as a table, in Markdown.

python tests/real_models/real_table.py build/real
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from case import Case
from listed import CASES

HEADERS = (
    "library", "model", "given as", "BatchNorms", "float64", "TorchScript", ".pt2", "ONNX", "fp16",
    "engine", "CPU s", "export alone", "peak",
)  # fmt: skip
ACCURACY = 9
"""The exit code of a build that refused one precision, and made everything else."""
ROWS = ("torchscript", "program", "onnxruntime", "onnxruntime-fp16", "tensorrt-fp16")


def render(directory: Path) -> str:
    """One line for each case with a result; below, the cases without a result and the reasons."""
    reasons: list[str] = []
    lines = [f"| {' | '.join(HEADERS)} |", "|---" * len(HEADERS) + "|"]
    for name, case in CASES.items():
        path = directory / f"{name}.json"
        if path.exists():
            cells = _cells(case, json.loads(path.read_text()), reasons)
            lines.append(f"| {' | '.join([case.library, case.model, case.given, *cells])} |")
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join([*lines, "", *notes])


def _cells(case: Case, result: dict[str, Any], reasons: list[str]) -> list[str]:
    empty = ["–"] * (len(HEADERS) - 4)
    if problem := result.get("missing") or result.get("failed"):
        return [_noted(problem, reasons), *empty]
    report = result["report"]
    if result["exit"] not in (0, ACCURACY) or report is None:
        text = result["output"].partition("Error: ")[2] or result["last"]
        reason = f"{case.name}: {' '.join(text.split()).partition(' The log: ')[0]}"
        return [f"exit {result['exit']} {_noted(reason, reasons)}", *empty]
    fold = report["fold"]
    counts, difference = "–", "–"
    if fold is not None:
        before, left = fold["batchnorm_before"], len(fold["left"])
        counts = f"{before} → {left}"
        if left:
            why = "; ".join(dict.fromkeys(one["reason"] for one in fold["left"]))
            counts += f" {_noted(f'{case.name}: {why}', reasons)}"
        relative = fold["verification"]["float64_relative_difference"]
        difference = f"{relative:.0e}" if relative else "0"
    rows = {row["name"]: row for row in report["rows"]}
    made = [_made(case, rows, name, reasons) for name in ROWS]
    if made[-1] == "–" and rows.get("tensorrt-fp32", {}).get("artifact"):
        made[-1] = "✓ fp32"
    alone = result.get("alone")
    seconds = "–"
    if alone is not None:
        seconds = f"{alone['cpu_seconds']:.0f}"
        if alone["exit"] != 0:
            seconds = f"fails {_noted(f'{case.name}, torch: ' + alone['last'], reasons)}"
    return [counts, difference, *made, f"{result['cpu_seconds']:.0f}", seconds,
            f"{result['peak_bytes'] / 1e9:.1f} GB"]  # fmt: skip


def _made(case: Case, rows: dict[str, Any], name: str, reasons: list[str]) -> str:
    row = rows.get(name)
    if row is None:
        return "–"
    if row["artifact"]:
        return "✓"
    return f"– {_noted(f'{case.name}: ' + str(row['not_measured']), reasons)}"


def _noted(reason: str, reasons: list[str]) -> str:
    short = reason if len(reason) <= 400 else f"{reason[:399]}…"
    if short not in reasons:
        reasons.append(short)
    return f"({reasons.index(short) + 1})"


if __name__ == "__main__":
    print(render(Path(sys.argv[1] if len(sys.argv) > 1 else "build/real")))
