"""How numbers and names are written in every rendering of a report."""

from __future__ import annotations

import math
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .layers import QuantizationSummary
    from .report import Report
    from .row import GpuState, Latency, Speedup

NOTHING = "–"
NO_REASON = "no reason was recorded"
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def superscript(number: int) -> str:
    """The mark of a footnote: ``¹²`` for 12."""
    return str(number).translate(_SUPERSCRIPTS)


def clean(text: str) -> str:
    """``text`` on one line, without control characters that a terminal would obey.

    Names come from checkpoints. White space becomes a space; control, format (bidirectional
    overrides), surrogate and private characters go.
    """
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if character.isspace():
            kept.append(" ")
        elif category[0] != "C":
            kept.append(character)
    return "".join(kept).strip()


def sentence(text: str) -> str:
    """``text``, cleaned, with one full stop at its end."""
    return f"{clean(text).rstrip('.')}."


def short(count: int | None) -> str:
    """``25.56 M``: four significant digits with a decimal prefix."""
    if count is None:
        return NOTHING
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size * 0.99995:
            return f"{_significant(count / size, 4)} {unit}"
    return str(count)


def size(count: int | None) -> str:
    """Bytes in decimal units, four significant digits: ``102.5 MB`` (MB = 10^6 bytes)."""
    if count is None:
        return NOTHING
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor * 0.99995:
            return f"{_significant(count / factor, 4)} {unit}"
    return f"{count} B"


def digits(value: float) -> str:
    """Three significant digits or more, no unit: ``0.0512``, ``3.14``, ``45.3``, ``1,204``."""
    return _significant(value, 3)


def ratio(value: float) -> str:
    """A speed-up: two decimals, from 10 on three digits: ``1.31``, ``12.4``."""
    return f"{value:.2f}" if value < 9.995 else _significant(value, 3)


def speedup(value: Speedup, *, interval: bool = True) -> str:
    """``1.31× [1.29, 1.33]``, or ``≈ [0.98, 1.02]`` if the interval contains 1."""
    head = "≈" if value.undecided else f"{ratio(value.value)}×"
    return f"{head} [{ratio(value.low)}, {ratio(value.high)}]" if interval else head


def difference(value: float) -> str:
    """``0``, ``1.2e-06``, or ``NaN/inf`` where an output is not a finite number."""
    if not math.isfinite(value):
        return "NaN/inf"
    return "0" if value == 0 else f"{value:.1e}"


def decibels(value: float) -> str:
    """``43.1 dB``; ``equal`` for identical outputs."""
    if value == math.inf:
        return "equal"
    return f"{value:.1f} dB" if math.isfinite(value) else "NaN/inf"


def percent(share: float) -> str:
    """A share of 0 to 1 with one decimal: ``98.4 %``; only a share of 1 is written ``100 %``."""
    if not math.isfinite(share):
        return NOTHING
    written = f"{100 * share:.1f}"
    if written == "100.0":
        return "100 %" if share == 1 else "99.9 %"
    return f"{written} %"


def quantization(summary: QuantizationSummary) -> str:
    """``int8 in 94.0 % of MACs``, and ``uncalibrated`` where that is so."""
    share = f"{summary.precision} in {percent(summary.quantized_macs_share)} of MACs"
    return share if summary.calibrated else f"{share}, uncalibrated"


def gpu(state: GpuState) -> str:
    """``1,410 of 1,980 MHz, 54 °C, 210 of 300 W, held down by the power limit``."""
    parts = []
    if state.sm_clock_mhz is not None:
        most = "" if state.max_sm_clock_mhz is None else f" of {state.max_sm_clock_mhz:,}"
        parts.append(f"{state.sm_clock_mhz:,}{most} MHz")
    if state.temperature_c is not None:
        parts.append(f"{state.temperature_c} °C")
    if state.power_w is not None:
        limit = "" if state.power_limit_w is None else f" of {state.power_limit_w:.0f}"
        parts.append(f"{state.power_w:.0f}{limit} W")
    if state.throttled_by:
        parts.append(f"held down by {' and '.join(state.throttled_by)}")
    return clean(", ".join(parts))


def cuda_graph(used: bool, reason: str) -> str:
    """``launched as one CUDA graph``, or without one, with the reason."""
    words = "launched as one CUDA graph" if used else "launched without a CUDA graph"
    return f"{words} ({reason})" if reason else words


def gpu_time(latency: Latency) -> str | None:
    """How a GPU row was timed, and the copies that its latency leaves out; ``None`` on the CPU."""
    if latency.h2d_ms is None or latency.d2h_ms is None:
        return None
    graph = latency.graph
    launched = "" if graph is None else f", {cuda_graph(graph.used, graph.reason)}"
    return (
        f"GPU time by CUDA events{launched}; the copies take {digits(latency.h2d_ms)} ms in"
        f" and {digits(latency.d2h_ms)} ms out"
    )


def machine(report: Report) -> str:
    """The machine on one line: CPU, GPU, threads and the libraries that ran the rows."""
    environment = report.environment
    threads = environment.threads
    parts = [
        environment.cpu,
        *([environment.gpu] if environment.gpu else []),
        f"{threads} thread{'' if threads == 1 else 's'}",
        *([f"governor {environment.governor}"] if environment.governor else []),
        *(
            f"{name} {environment.packages[name]}"
            for name in ("torch", "onnxruntime", "tensorrt", "tensorrt-rtx")
            if name in environment.packages
        ),
    ]
    return clean(" · ".join(parts))


def parameters_changed(before: int, after: int) -> str:
    """``26,560 parameters fewer``; a layer that gets a bias can make them more."""
    return f"{abs(before - after):,} parameters {'fewer' if after <= before else 'more'}"


def inputs(report: Report) -> str:
    """The inputs on one line: names, shapes, dtypes, the source of the shapes and the values."""
    shapes = ", ".join(
        f"{value.name} {'x'.join(map(str, value.shape)) or 'scalar'} {value.dtype}"
        for value in report.inputs
    )
    origin = f" (shape from {report.input_origin})" if report.input_origin else ""
    return clean(f"{shapes}{origin}, {report.input_data}")


def _significant(value: float, digits: int) -> str:
    if not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    # Rounding may carry into one more digit: 9.996 at three digits is 10.0, not 10.00.
    if round(abs(value), max(0, decimals)) >= 10 ** (digits - decimals):
        decimals -= 1
    return f"{value:,.{max(0, decimals)}f}"
