"""Builds an engine with TensorRT 10.3 and newer, TensorRT 11 or TensorRT-RTX; runs in the worker.

The same code serves all three libraries. The library's module is an argument; where the three
differ, ``hasattr`` decides and never the version. Networks are always strongly typed: the ONNX
carries the precision.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployfold.compiling.records import EngineListing, EngineRequest, EngineTensor, LayerCounts
from deployfold.compiling.worker_process import Report
from deployfold.errors import CompileError
from deployfold.targets.compute_capability import sm_name
from deployfold.targets.libraries import LIBRARIES, Library, lean_runtime_hint
from deployfold.targets.machine import detect
from deployfold.util.files import write_bytes

from .builder_config import add_profiles, apply_options, set_compute_capabilities
from .known_issues import KnownIssue, known_issues, sentence
from .listing import HEADING, read_listing
from .network import check_precision, parse_onnx, read_network, tensors_of
from .progress import make_monitor

_NOT_FOR_THIS_GPU = re.compile(
    r"Cannot compile operation '(?P<operation>[^']+)' for \w+ \(SM(?P<sm>\d+)\): "
    r"(?P<reason>.+?)\.? In "
)
"""The log line of TensorRT-RTX 1.7 for FP32 matrix products and 3-D convolutions on Turing."""


class EngineNotWritten(Exception):
    """The engine was built, but its file could not be written, because of ``error``."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class NotBuilt(CompileError):
    """The library returned no engine; ``issues`` are known issues that may be the reason."""

    def __init__(
        self, message: str, *, hint: str | None = None, issues: tuple[KnownIssue, ...] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.issues = issues


@dataclass(frozen=True)
class BuiltEngine:
    """The facts about an engine that :func:`build` wrote.

    Attributes:
        listing: the kernels of the engine; ``None`` if the library listed none.
    """

    library_version: str
    layer_counts: LayerCounts
    tensors: tuple[EngineTensor, ...]
    notes: tuple[str, ...] = ()
    listing: EngineListing | None = None


class _Log:
    """The library's log: writes every line to stderr, which is the log file.

    Attributes:
        errors: the errors, each on one line.
        listing: the listing of the engine's layers, which is left out of the log file.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.listing = ""

    def write(self, severity: str, message: str) -> None:
        if severity == "VERBOSE":
            if message.startswith(HEADING):
                self.listing = message
            return
        print(f"[{severity}] {message}", file=sys.stderr, flush=True)
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(" ".join(message.split()))

    def because(self) -> str:
        """The last error as the end of a sentence; empty without an error."""
        return f": {self.errors[-1].rstrip('.')}" if self.errors else ""


def build(
    trt: Any, request: EngineRequest, onnx: Path, output: Path, report: Report
) -> BuiltEngine:
    """Parse ``onnx``, check the network, build the engine and write it to ``output``.

    Raises:
        CompileError: a step failed; the message has the library's own reason.
        EngineNotWritten: the engine is built, but its file cannot be written.
    """
    title, version = LIBRARIES[request.library].title, str(trt.__version__)
    log = _Log()
    logger = _make_logger(trt, log)
    builder = trt.Builder(logger)
    if builder is None:
        raise CompileError(f"{title} could not start{log.because()}.")
    # The member's value differs between TensorRT 10 and 11. EXPLICIT_BATCH has been the only mode
    # since 10.0 and needs no flag.
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    report("Parsing the ONNX", None)
    parse_onnx(trt, network, logger, onnx, title)
    layers = read_network(network)
    check_precision(layers.counts, request.precision, onnx)

    config = builder.create_builder_config()
    apply_options(trt, builder, config, request)
    set_compute_capabilities(trt, config, request)
    add_profiles(builder, config, network, request)
    cache = _timing_cache(trt, config, request)
    # This variable keeps the monitor alive during the build: the config holds no reference.
    monitor = make_monitor(trt, report)
    config.progress_monitor = monitor
    issues = known_issues(
        request.library,
        version,
        precision=request.precision,
        layers=layers.types,
        dla=request.options.dla_core is not None,
    )
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        branches = "CONDITION" in layers.types
        raise _not_built(title, log, issues, version, branches)
    report("Writing the engine", None)
    try:
        with output.open("wb") as file:
            file.write(memoryview(serialized))
    except OSError as error:
        raise EngineNotWritten(error) from error
    if cache is not None:
        save_cache(config, cache)
    listed = log.listing
    if request.verify and not request.options.strip_plan:
        listed = _check_that_it_loads(trt, logger, serialized, request, log)
    return BuiltEngine(
        version,
        layers.counts,
        tensors_of(network),
        notes=tuple(sentence(one, version) for one in issues if not one.fails),
        listing=read_listing(listed, layers),
    )


def _make_logger(trt: Any, log: _Log) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the library comes at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            log.write(severity.name, msg)

    return Logger()


def _timing_cache(trt: Any, config: Any, request: EngineRequest) -> Path | None:
    """Load the timing cache of the request; the path to save it to after the build."""
    directory = request.options.timing_cache
    if directory is None:
        return None
    gpu = detect().gpu
    if gpu is None:
        raise CompileError(
            "A timing cache belongs to a GPU, and this machine has none.",
            hint="Remove --timing-cache.",
        )
    where = f"{gpu.name} {sm_name(gpu.compute_capability)}"
    path = cache_file(directory, where, request.library, str(trt.__version__))
    load_cache(config, path)
    return path


def cache_file(directory: Path, gpu: str, library: Library, version: str) -> Path:
    """The file for one GPU, such as ``NVIDIA L4 sm_89``, library and version: timings fit these."""
    name = "-".join((library, version, gpu))
    return directory / (re.sub(r"[^A-Za-z0-9._]+", "-", name) + ".timing")


def load_cache(config: Any, path: Path) -> None:
    """Set the timing cache at ``path`` in ``config``, or an empty cache if the library refuses it.

    The library refuses damaged caches and those of another driver. :func:`save_cache` replaces
    them.
    """
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def save_cache(config: Any, path: Path) -> None:
    """Write the timings of the build, and those it started with, to ``path``.

    Raises:
        UsageError: the file cannot be written.
    """
    cache = config.get_timing_cache()
    if cache is not None:
        write_bytes(path, bytes(memoryview(cache.serialize())))


def _not_built(
    title: str, log: _Log, issues: tuple[KnownIssue, ...], version: str, branches: bool
) -> CompileError:
    """The error of a build that returned no engine, made of the library's log."""
    lacking = next(filter(None, map(_NOT_FOR_THIS_GPU.search, log.errors)), None)
    if lacking is not None:
        return CompileError(
            f"{title} cannot build {lacking['operation']!r} for sm_{lacking['sm']}: "
            f"{lacking['reason']}.",
            hint="Build in fp16 for that GPU, or on the device with TensorRT: deployfold finish.",
        )
    known = [sentence(issue, version) for issue in issues if issue.fails]
    lean = lean_runtime_hint(log.errors)
    hints = [lean] if lean else []
    hints += ["Known issues:", *known] if known else []
    if branches:
        hints.append(
            "The model has branches (If). If an input chooses the branch, give it one value with "
            "--fix NAME=VALUE; else export the model for one case, or use a file of its author "
            "without branches."
        )
    return NotBuilt(
        f"{title} could not build the engine{log.because()}.",
        hint=" ".join(hints) or None,
        issues=issues,
    )


def _check_that_it_loads(
    trt: Any, logger: Any, serialized: Any, request: EngineRequest, log: _Log
) -> str:
    """Load the engine on the GPU in the machine; returns the inspector's listing of its layers."""
    # Without a driver, the library returns None for a good engine too. This check therefore runs
    # only if the GPU in the machine can run the engine.
    log.errors.clear()
    runtime = trt.Runtime(logger)
    if request.options.version_compatible:
        runtime.engine_host_code_allowed = True  # the lean runtime from this build is trusted
    engine = runtime.deserialize_cuda_engine(serialized)
    if engine is None:
        title = LIBRARIES[request.library].title
        raise CompileError(f"{title} built an engine that it cannot load again{log.because()}.")
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.ONELINE))
