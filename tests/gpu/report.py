"""The truth about the GPU in this machine: ``make gpu``, or ``python -m tests.gpu.report OUT``.

Runs from a plain checkout, without the network, in about six minutes. Every part is a process of
its own with a time limit, so a failure costs that part alone; a part that lacks a package says so.
Writes ``gpu.json`` (all that was found) and ``gpu.md`` (the table) after every part, and a log of
each part beside them. Without a GPU everything is rehearsed on the CPU, and the report says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NETS = ("resnet50", "vgg16_bn", "mobilenet_v2")
PACKAGES = (
    "torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "tensorrt", "tensorrt_rtx",
    "torch_tensorrt", "numpy", "pydantic", "rich", "typer",
)  # fmt: skip
REHEARSAL = 4.0  # how many times as long a part may take without a GPU
GRACE = 30.0  # seconds for a part to end by itself after its time limit
SMI = "name,uuid,driver_version,clocks.sm,clocks.max.sm,temperature.gpu,power.draw,memory.total"


@dataclass
class Part:
    """The result of one part.

    Attributes:
        found: its result, as JSON.
        failure: why there is none; ``None`` for a part that ran to its end.
        seconds: how long it took.
    """

    name: str
    found: Any = None
    failure: str | None = None
    seconds: float = 0.0


@dataclass
class Run:
    """The folder for the results, and the way to run the parts.

    Attributes:
        nets: names of torchvision.
        extra: more words for every ``build``, such as a small ``--input``.
        seconds: for the measurement of each net.
    """

    out: Path
    nets: Sequence[str] = NETS
    extra: Sequence[str] = ()
    seconds: float = 20.0
    parts: list[Part] = field(default_factory=list)

    def part(self, name: str, work: Callable[[], Any]) -> Any:
        """Do one part, and write the report of all parts so far."""
        print(f"== {name}", flush=True)
        start, part = time.monotonic(), Part(name)
        try:
            part.found = work()
        except (OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
            part.failure = f"{type(error).__name__}: {error}"
        part.seconds = round(time.monotonic() - start, 1)
        print(f"   {part.seconds} s {part.failure or ''}", flush=True)
        self.parts.append(part)
        self.write()
        return part.found

    def process(self, name: str, words: Sequence[str], limit: float) -> str:
        """Return the standard output of a Python process; the standard error goes to ``NAME.log``.

        Raises:
            ValueError: the process failed; the message ends in its last line.
        """
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        log = self.out / f"{name}.log"
        if shutil.which("nvidia-smi") is None:
            limit *= REHEARSAL
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [sys.executable, *words], stdout=subprocess.PIPE, stderr=errors, text=True,
                cwd=self.out, env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
            try:
                output, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)  # a build then reports what it has finished
                (timer := threading.Timer(GRACE, process.kill)).start()
                process.communicate()
                timer.cancel()
                raise ValueError(f"not done after {limit:g} s") from None
        if process.returncode:
            lines = (log.read_text("utf-8") + output).strip().splitlines()
            last = lines[-1] if lines else "nothing was printed"
            raise ValueError(f"exit code {process.returncode}: {last}")
        return output

    def deployfold(self, name: str, words: Sequence[str], limit: float) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.process(name, ["-m", "deployfold", *words, "--json"], limit))

    def write(self) -> None:
        """Write what was found so far."""
        (self.out / "gpu.json").write_text(
            json.dumps([vars(part) for part in self.parts], indent=1), encoding="utf-8"
        )
        (self.out / "gpu.md").write_text(markdown(self.parts), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do all parts; 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="gets gpu.json, gpu.md, logs and builds")
    parser.add_argument("--net", action="append", help="of torchvision; repeat it for several")
    parser.add_argument("--input", help="shape, for a rehearsal on a CPU: 1x3x64x64")
    parser.add_argument("--seconds", type=float, default=20.0, help="measurement of each net")
    parser.add_argument("--no-tests", action="store_true", help="leave tests/gpu out")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    extra = ["--input", options.input] if options.input else []
    run = Run(options.out.resolve(), options.net or NETS, extra, options.seconds)
    run.part("machine", machine)
    run.part("packages", lambda: packages(run))
    run.part("doctor", lambda: run.deployfold("doctor", ["doctor", "--deep"], 120))
    for net in run.nets:
        run.part(f"build {net}", lambda net=net: build(run, net))
        if shutil.which("nvidia-smi"):
            run.part(f"batch-32 {net}", lambda net=net: build_32(run, net))
        run.part(f"bench {net}", lambda net=net: bench(run, net))
        run.part(f"trtexec {net}", lambda net=net: trtexec(run, net))
    if not options.no_tests:
        run.part("tests", lambda: tests(run))
    print(f"\n{(run.out / 'gpu.md').read_text('utf-8')}\n{run.out / 'gpu.md'}")
    return int(any(part.failure for part in run.parts))


def machine() -> dict[str, Any]:
    """The processor, Python, and every GPU as ``nvidia-smi`` describes it."""
    facts: dict[str, Any] = {"python": platform.python_version(), "cpus": os.cpu_count()}
    facts["visible"] = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shutil.which("nvidia-smi") is None:
        return facts | {"gpus": [], "why": "no nvidia-smi: this run is a rehearsal on the CPU"}
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={SMI}", "--format=csv,noheader"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    keys = SMI.split(",")
    rows = [line.split(", ") for line in done.stdout.strip().splitlines()]
    return facts | {"gpus": [dict(zip(keys, row, strict=False)) for row in rows]}


def packages(run: Run) -> dict[str, str]:
    """The versions of the imported modules, each imported in one process of its own."""
    code = (
        "import sys, importlib as i, importlib.metadata as m\n"
        "found = getattr(i.import_module(sys.argv[1]), '__version__', None)\n"
        "print(found or m.version(sys.argv[1]))"
    )
    found = {}
    for name in PACKAGES:
        try:
            lines = run.process(f"import-{name}", ["-c", code, name], 120).strip().splitlines()
            found[name] = lines[-1]
        except (ValueError, subprocess.TimeoutExpired) as error:
            found[name] = f"missing: {error}"
    return found


def build(run: Run, net: str) -> Any:
    """The whole pipeline with every row that this machine can have."""
    words = ["build", f"torchvision:{net}", "--fp16", "-o", net, *run.extra]
    words += ["--max-seconds", f"{run.seconds:g}", *optional(run)]
    return run.deployfold(f"build-{net}", words, 400)


def build_32(run: Run, net: str) -> Any:
    """Folded against original at batch 32, with intervals; no engine."""
    words = ["build", f"torchvision:{net}", "--no-engine", "-o", f"{net}-32"]
    words += ["--input", "32x3x224x224", "--max-seconds", f"{run.seconds:g}"]
    return run.deployfold(f"batch-32-{net}", words, 300)


def optional(run: Run) -> list[str]:
    """The options of ``build`` that add rows, as far as this version has them."""
    known = run.process("help", ["-m", "deployfold", "build", "--help-all"], 60)
    return [
        flag for flag in ("--torch-compile", "--aot-inductor", "--torch-tensorrt") if flag in known
    ]


def bench(run: Run, net: str) -> Any:
    """The same files again at batch 1 and 32, with the ONNX on the CPU and on the GPU."""
    words = ["bench", net, "--provider", "cpu", "--max-seconds", f"{run.seconds:g}"]
    try:
        return run.deployfold(f"bench-{net}", [*words, "--provider", "cuda"], 200)
    except ValueError as error:
        found = run.deployfold(f"bench-cpu-{net}", words, 200)
        return found | {"provider cuda": f"not measured: {error}"}


def trtexec(run: Run, net: str) -> dict[str, Any]:
    """NVIDIA's own timing of the fp16 ONNX, for comparison with the engine's row."""
    tool = shutil.which("trtexec")
    if tool is None:
        return {"not measured": "trtexec is not on the PATH"}
    onnx = run.out / net / f"{net}.fp16.onnx"
    words = [tool, f"--onnx={onnx}", "--stronglyTyped", "--useCudaGraph"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    (run.out / f"trtexec-{net}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    match = re.search(r"GPU Compute Time:.*?median = ([\d.]+) ms", done.stdout)
    if match is None:
        raise ValueError(f"trtexec ended with {done.returncode} and named no time")
    return {"median_ms": float(match[1])}


def tests(run: Run) -> dict[str, Any]:
    """``tests/gpu``: the line of counts, and every skip with its reason."""
    words = ["-m", "pytest", str(ROOT / "tests" / "gpu"), "-q", "-rs", "-p", "no:cacheprovider"]
    output = run.process("tests", words, 240)
    lines = output.strip().splitlines()
    return {"counts": lines[-1], "skipped": [line for line in lines if line.startswith("SKIPPED")]}


def markdown(parts: Sequence[Part]) -> str:
    """The table of all rows, and under it what failed and what is missing."""
    found = {part.name: part.found for part in parts if part.failure is None}
    gpus = (found.get("machine") or {}).get("gpus") or []
    head = gpus[0]["name"] if gpus else "No GPU: a rehearsal on the CPU"
    lines = [f"# {head}", "", "| net | row | median ms | speed-up [95 %] | SQNR dB | note |"]
    lines.append("|---|---|---:|---:|---:|---|")
    for name, report in found.items():
        kind, _, net = name.partition(" ")
        if kind in ("build", "batch-32", "bench") and isinstance(report, dict):
            lines += [row(net, kind, one) for one in report.get("rows", ())]
        elif kind == "trtexec" and isinstance(report, dict):
            time_ms = report.get("median_ms")
            why = report.get("not measured", "GPU compute time")
            lines.append(f"| {net} | trtexec fp16 | {number(time_ms)} | – | – | {why} |")
    lines += emulated_and_real(found)
    lines += ["", "## Parts", "", "| part | seconds | result |", "|---|---:|---|"]
    for part in parts:
        lines.append(f"| {part.name} | {part.seconds} | {part.failure or 'done'} |")
    missing = {name: why for name, why in (found.get("packages") or {}).items() if "missing" in why}
    if missing:
        lines += ["", f"Not installed: {', '.join(sorted(missing))}."]
    return "\n".join(lines) + "\n"


def emulated_and_real(found: dict[str, Any]) -> list[str]:
    """The fp16 SQNR that the build emulated on the CPU beside that of the engine on this GPU."""
    lines = []
    for name, report in found.items():
        kind, _, net = name.partition(" ")
        if kind != "build" or not isinstance(report, dict):
            continue
        rows = {one["name"]: one.get("accuracy") or {} for one in report.get("rows", ())}
        emulated = rows.get("onnxruntime-fp16", {}).get("sqnr_db")
        for key in [one for one in rows if one.startswith("tensorrt-fp16")]:
            real = number(rows[key].get("sqnr_db"))
            lines.append(f"| {net} | {number(emulated)} | {real} | {key} |")
    head = ["", "## fp16 SQNR in dB", "", "| net | emulated | real | row |", "|---|---:|---:|---|"]
    return [*head, *lines] if lines else []


def row(net: str, kind: str, one: dict[str, Any]) -> str:
    """A row of the table from a row of a report."""
    latency, accuracy = one.get("latency") or {}, one.get("accuracy") or {}
    speedup = latency.get("speedup")
    ratio = "–"
    if isinstance(speedup, dict):
        ratio = "{value:.2f}× [{low:.2f}, {high:.2f}]".format(**speedup)
    note = one.get("not_measured") or ("" if latency.get("stable", True) else "not stable")
    title = one["title"] + {"bench": ", again", "batch-32": ", batch 32"}.get(kind, "")
    cells = (net, title, number(latency.get("median_ms")), ratio, number(accuracy.get("sqnr_db")))
    return f"| {' | '.join(cells)} | {note.replace('|', '/')} |"


def number(value: float | None) -> str:
    """Four significant digits, or a dash."""
    return "–" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
