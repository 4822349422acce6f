"""Measures the time and the peak memory of every stage by the size of the model, with a plot.

    python tests/benchmarks/scale.py FOLDER [NET …] [--svg FILE] [--limit-gb 16]

Each net of torchvision, with seeded random weights in a checkpoint, goes through load, fold,
export, FP16, TensorRT-RTX and bundle, as its users do it: by the command line. A net that is done
is not built again, so a run that was stopped goes on; FOLDER/scale.json holds the numbers. The plot
is made anew each time, of all that is there.

Time is that of the CPU, on one thread: the clock on the wall depends on what else the machine does.
Memory is the greatest that a build and the process that compiles its engine have resident at a
time; a build that takes more than the limit is ended.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torchvision

NETS = (
    "resnet18", "resnet50", "resnet152", "regnet_y_16gf", "regnet_y_32gf", "regnet_y_128gf",
)  # fmt: skip
SHAPE = "1x3x64x64"
DEPLOYFOLD = Path(sysconfig.get_path("scripts")) / "deployfold"
SAMPLE_SECONDS = 0.25


def measure(name: str, folder: Path, limit: float) -> dict[str, Any]:
    """Build and bundle one net.

    Args:
        folder: for its files, which are removed.
        limit: gigabytes that it may take.
    """
    checkpoint, build, bundle = folder / f"{name}.pth", folder / name, folder / f"{name}.tar.zst"
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, weights=None)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    torch.save(net.state_dict(), checkpoint)
    del net
    flags = ["--arch", f"torchvision:{name}", "--input", SHAPE, "--fp16", "--no-measure"]
    built = _run(["build", str(checkpoint), *flags, "-o", str(build)], limit)
    packed = _run(["bundle", str(build), "-o", str(bundle)], limit)
    report = json.loads((build / "report.json").read_text())
    assert report["status"]["state"] == "complete"
    found = {
        "parameters": parameters,
        "stages": report["stages"],
        "build": built,
        "bundle": packed,
        "bundle_bytes": bundle.stat().st_size,
        "external_data": (build / f"{name}.onnx.data").exists(),
    }
    shutil.rmtree(build)
    for path in (checkpoint, bundle):
        path.unlink()
    return found


def _run(words: list[str], limit: float) -> dict[str, float]:
    """Run a command; its CPU seconds, those on the wall, and the most that its processes held."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen([DEPLOYFOLD, *words, "--no-color"], env=environment)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, limit, peak), daemon=True)
    watcher.start()
    if process.wait() != 0:
        sys.exit(f"deployfold {' '.join(words)} ended with {process.returncode}")
    watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_seconds": cpu, "seconds": time.perf_counter() - start, "sampled_bytes": peak[0]}


def _watch(process: subprocess.Popen[bytes], limit: float, peak: list[int]) -> None:
    """Track the greatest resident memory of the process and its children."""
    try:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            tree = [root, *root.children(recursive=True)]
            peak[0] = max(peak[0], sum(one.memory_info().rss for one in tree))
            if peak[0] > limit * 1e9:
                print(f"more than {limit:g} GB: ended", file=sys.stderr)
                for one in tree:
                    one.kill()
            time.sleep(SAMPLE_SECONDS)
    except psutil.NoSuchProcess:
        return


def peak_gb(found: dict[str, Any]) -> float:
    """The greatest memory of any stage."""
    peaks = [stage["peak_bytes"] for stage in found["stages"] if stage["peak_bytes"]]
    return max(*peaks, found["bundle"]["sampled_bytes"]) / 1e9


def cpu_seconds(found: dict[str, Any]) -> float:
    """The CPU seconds of the build and the bundle."""
    return float(found["build"]["cpu_seconds"] + found["bundle"]["cpu_seconds"])


def table(results: dict[str, Any]) -> str:
    """A Markdown table: one row for each net, one column for each stage with its seconds and peak
    memory.
    """
    stages = [stage["stage"] for stage in next(iter(results.values()))["stages"]]
    lines = [
        "| net | parameters | CPU s | peak GB | " + " | ".join(stages) + " | bundle |",
        "|---" * (len(stages) + 5) + "|",
    ]
    for name, found in results.items():
        cells = [
            f"{stage['seconds']:.0f} s, {stage['peak_bytes'] / 1e9:.1f} GB"
            for stage in found["stages"]
        ]
        packed = found["bundle"]
        cells.append(f"{packed['seconds']:.0f} s, {packed['sampled_bytes'] / 1e9:.1f} GB")
        lines.append(
            f"| {name} | {found['parameters'] / 1e6:.1f} M | {cpu_seconds(found):.0f} | "
            f"{peak_gb(found):.1f} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def plot(results: dict[str, Any], path: Path) -> None:
    """Time and peak memory against parameters, with the straight line nearest to them."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "scale", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    x = np.array([found["parameters"] / 1e6 for found in results.values()])
    panels = (
        (axes[0], "CPU time, s", [cpu_seconds(found) for found in results.values()]),
        (axes[1], "peak memory, GB", [peak_gb(found) for found in results.values()]),
    )
    for axis, title, values in panels:
        # Weighted, or the largest would decide alone: as far off in proportion everywhere.
        slope, base = np.polyfit(x, values, 1, w=1 / np.array(values))
        ends = np.array([0, x.max()])
        axis.plot(ends, base + slope * ends, color="0.7", zorder=1)
        axis.scatter(x, values, s=18, zorder=2)
        unit = title.rpartition(" ")[2]
        formula = f"{base:.1f} {unit} + {100 * slope:.1f} {unit} for 100 M parameters"
        axis.set(
            title=title, xlabel=f"parameters, M\n(line: {formula})", xlim=(0, None), ylim=(0, None)
        )
        axis.spines[["top", "right"]].set_visible(False)
        labelled = -max(values)
        for name, across, up in zip(results, x, values, strict=True):
            if up - labelled < max(values) / 20:
                continue  # its name would lie on the one below
            labelled = up
            right = across > x.max() / 2
            axis.annotate(
                name, (across, up), xytext=(-6 if right else 6, -4), textcoords="offset points",
                ha="right" if right else "left", fontsize=7,
            )  # fmt: skip
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Build what is missing, print the table and make the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("nets", nargs="*", default=NETS)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--limit-gb", type=float, default=16.0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    kept = args.folder / "scale.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    for name in args.nets:
        if name not in results:
            results[name] = measure(name, args.folder, args.limit_gb)
            kept.write_text(json.dumps(results, indent=1))
    results = dict(sorted(results.items(), key=lambda item: item[1]["parameters"]))
    print(table(results))
    if args.svg is not None:
        plot(results, args.svg)


if __name__ == "__main__":
    main()
