"""One builder for ``tensorrt`` 10.3 and newer, 11, and ``tensorrt_rtx``; runs in the worker.

The library comes in as a module, and where the three differ it is asked with ``hasattr``, never
by its version. Networks are always strongly typed: the ONNX carries the precision.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployfold.errors import CompileError
from deployfold.spec import Precision

from .progress import make_monitor
from .request import LIBRARY_TITLES, EngineRequest, InputShapes, LayerCounts, Library
from .targets import sm_name

Report = Callable[[str, float | None], None]


@dataclass(frozen=True)
class BuiltEngine:
    """What :func:`build` wrote."""

    library_version: str
    layer_counts: LayerCounts
    loaded: bool


class _Log:
    """Keeps the library's last errors for the message; every line goes to stderr, the log."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def write(self, severity: str, message: str) -> None:
        print(f"[{severity}] {message}", file=sys.stderr, flush=True)
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(" ".join(message.split()))

    def because(self) -> str:
        return f": {self.errors[-1].rstrip('.')}" if self.errors else ""


def import_library(name: Library) -> Any:
    """Import NVIDIA's package, and make sure that it is NVIDIA's.

    Raises:
        CompileError: it is not installed, cannot load its libraries, or another module of that
            name comes first on ``sys.path``.
    """
    title = LIBRARY_TITLES[name]
    try:
        module = importlib.import_module(name)
    except Exception as error:  # ImportError, OSError of a missing library, RuntimeError
        raise CompileError(
            f"{title} cannot be imported: {error}.", hint="See what is missing: deployfold doctor."
        ) from error
    if not hasattr(module, "Builder"):
        raise CompileError(
            f"{getattr(module, '__file__', name)} is not NVIDIA's {title}, and hides it.",
            hint="Rename that file, or take its directory off PYTHONPATH.",
        )
    return module


def build(
    trt: Any, request: EngineRequest, onnx: Path, engine: Path, report: Report
) -> BuiltEngine:
    """Parse ``onnx``, check what came out, build, and write the engine to ``engine``.

    Args:
        trt: the imported library.
        report: takes the name of a phase, and the fraction of the build where it is known.

    Raises:
        CompileError: any step failed; the message has the library's own reason.
    """
    title = LIBRARY_TITLES[request.library]
    log = _Log()
    logger = _make_logger(trt, log)
    builder = trt.Builder(logger)
    if builder is None:
        raise CompileError(f"{title} could not start{log.because()}.")
    # The member's value differs between TensorRT 10 and 11; EXPLICIT_BATCH is the only mode since
    # 10.0 and needs no flag.
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    report("Parsing the ONNX", None)
    _parse(trt, network, logger, onnx, log, title)
    counts = count_layers(trt, network)
    check_precision(counts, request.precision, onnx)

    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if request.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mib << 20)
    if request.optimization_level is not None:
        config.builder_optimization_level = request.optimization_level
    set_compute_capabilities(trt, config, request)
    _add_profiles(builder, config, network, request)
    # The config keeps no reference of its own: the monitor must live as long as the build.
    monitor = make_monitor(trt, report)
    config.progress_monitor = monitor
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise CompileError(f"{title} could not build the engine{log.because()}.")
    report("Writing the engine", None)
    with engine.open("wb") as file:
        file.write(memoryview(serialized))
    if request.verify:
        _load(trt, logger, serialized, log, title)
    return BuiltEngine(str(trt.__version__), counts, request.verify)


def count_layers(trt: Any, network: Any) -> LayerCounts:
    """Count a network's layers by the type they compute in; see :class:`LayerCounts`."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = trt.LayerType
    compute = {kinds.CONVOLUTION, kinds.DECONVOLUTION, kinds.MATRIX_MULTIPLY, kinds.EINSUM}
    # TensorRT 10.3 has no squeeze layers yet.
    moving = ("SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE")
    moves = {getattr(kinds, name) for name in moving if hasattr(kinds, name)}
    maker = {
        layer.get_output(index).name: layer
        for layer in layers
        for index in range(layer.num_outputs)
    }
    names = {trt.DataType.FLOAT: "fp32", trt.DataType.HALF: "fp16", trt.DataType.BF16: "bf16"}
    found = {"fp32": 0, "fp16": 0, "bf16": 0, "int8": 0}
    for layer in layers:
        if layer.type not in compute:
            continue
        operand = layer.get_input(0)
        source = maker.get(operand.name)
        while source is not None and source.type in moves:
            source = maker.get(source.get_input(0).name)
        dequantized = source is not None and source.type == kinds.DEQUANTIZE
        name = "int8" if dequantized else names.get(operand.dtype)
        if name is not None:
            found[name] += 1
    return LayerCounts(
        total=len(layers),
        quantize=sum(layer.type == kinds.QUANTIZE for layer in layers),
        dequantize=sum(layer.type == kinds.DEQUANTIZE for layer in layers),
        **found,
    )


def check_precision(counts: LayerCounts, precision: Precision, onnx: Path) -> None:
    """Make sure that the parsed network computes in the precision that was asked for.

    A network without compute layers passes: there is nothing to lower.

    Raises:
        CompileError: no compute layer has that precision.
    """
    if not counts.compute:
        return
    have = {
        Precision.FP32: counts.fp32,
        Precision.FP16: counts.fp16,
        Precision.INT8: counts.int8 if counts.quantize else 0,
    }[precision]
    if have == 0:
        raise CompileError(
            f"{precision.value} was asked for, and none of the {counts.compute} compute layers "
            f"that TensorRT parsed from {onnx.name} is {precision.value} (fp32: {counts.fp32}, "
            f"fp16: {counts.fp16}, bf16: {counts.bf16}, int8: {counts.int8}).",
            hint="Strongly typed networks take their precision from the ONNX: lower it first.",
        )


def set_compute_capabilities(trt: Any, config: Any, request: EngineRequest) -> None:
    """Tell the builder which SMs to build for, where the library can be told.

    Raises:
        CompileError: the library does not know one of them.
    """
    title = LIBRARY_TITLES[request.library]
    if not hasattr(config, "set_compute_capability"):
        if not request.current_gpu:
            raise CompileError(f"{title} builds only for the GPU in this machine.")
        return
    if request.current_gpu:
        members = [trt.ComputeCapability.CURRENT]
    else:
        names = [sm_name(pair).replace("sm_", "SM") for pair in request.compute_capabilities]
        for name in names:
            if not hasattr(trt.ComputeCapability, name):
                raise CompileError(
                    f"{title} {trt.__version__} does not know {name}.",
                    hint="Ask for another target, or install a newer tensorrt-rtx.",
                )
        members = [getattr(trt.ComputeCapability, name) for name in names]
    config.num_compute_capabilities = len(members)
    for index, member in enumerate(members):
        if not config.set_compute_capability(member, index):
            raise CompileError(f"{title} refuses to build for {member}.")


def _make_logger(trt: Any, log: _Log) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the library comes at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity != trt.ILogger.Severity.VERBOSE:
                log.write(severity.name, msg)

    return Logger()


def _parse(trt: Any, network: Any, logger: Any, onnx: Path, log: _Log, title: str) -> None:
    parser = trt.OnnxParser(network, logger)
    # By path, so that external data beside the ONNX is found.
    if not parser.parse_from_file(str(onnx)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = "; ".join(_parser_error(error) for error in errors[:3]) or "no reason given"
        more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
        raise CompileError(
            f"{title} cannot take {onnx.name}: {reasons}{more}.",
            hint="Export with another opset, or keep the operator out of the model.",
        )
    # A garbage file parses with success into an empty network.
    for count, what in (
        (network.num_inputs, "inputs"),
        (network.num_outputs, "outputs"),
        (network.num_layers, "layers"),
    ):
        if count == 0:
            raise CompileError(f"{onnx.name} has no {what} after {title} parsed it.")


def _parser_error(error: Any) -> str:
    node = f"{error.node_operator()} node {error.node_name()!r}: " if error.node_operator() else ""
    return node + " ".join(error.desc().split()).rstrip(".")


def _add_profiles(builder: Any, config: Any, network: Any, request: EngineRequest) -> None:
    inputs = {
        tensor.name: tensor
        for tensor in (network.get_input(index) for index in range(network.num_inputs))
    }
    dynamic = [name for name, tensor in inputs.items() if -1 in tuple(tensor.shape)]
    if dynamic and not request.profiles:
        raise CompileError(
            f"The input {dynamic[0]!r} has a dynamic shape {tuple(inputs[dynamic[0]].shape)}, and "
            "no optimization profile says how large it gets.",
            hint="Give one: --dynamic-batch 1:8:32.",
        )
    for shapes in request.profiles:
        given = {entry.name: entry for entry in shapes}
        if given.keys() != inputs.keys():
            raise CompileError(
                f"The optimization profile is for the inputs {sorted(given)}, and the network's "
                f"are {sorted(inputs)}."
            )
        profile = builder.create_optimization_profile()
        for name, tensor in inputs.items():
            _check_shapes(tensor, given[name])
            if tensor.is_shape_tensor:
                raise CompileError(
                    f"The values of the input {name!r} decide shapes inside the network; "
                    "deployfold cannot give bounds for values yet.",
                    hint="Export the model with that input fixed.",
                )
            entry = given[name]
            profile.set_shape(name, entry.min, entry.opt, entry.max)
        if dynamic and config.add_optimization_profile(profile) < 0:
            raise CompileError(f"The optimization profile {given} is not a valid one.")


def _check_shapes(tensor: Any, shapes: InputShapes) -> None:
    fixed = tuple(tensor.shape)
    for shape in (shapes.min, shapes.opt, shapes.max):
        fits = len(shape) == len(fixed) and all(
            axis in (-1, wanted) for axis, wanted in zip(fixed, shape, strict=True)
        )
        if not fits:
            raise CompileError(
                f"The input {shapes.name!r} has the shape {fixed} in the ONNX (-1 is dynamic), "
                f"and {shape} was asked for.",
                hint="Export the ONNX with that axis dynamic, or ask for its shape.",
            )


def _load(trt: Any, logger: Any, serialized: Any, log: _Log, title: str) -> None:
    # Without a driver this returns None for a good engine too, so it is only asked where the GPU
    # in the machine can run the engine.
    log.errors.clear()
    if trt.Runtime(logger).deserialize_cuda_engine(serialized) is None:
        raise CompileError(f"{title} built an engine that it cannot load again{log.because()}.")
