"""The builder's configuration: where it builds for, its options, and its optimization profiles.

What a library lacks is asked of its objects with ``hasattr``. Two things cannot be asked so, for
TensorRT-RTX has the names and does nothing, or needs a driver for them: :data:`NOT_IN_RTX` and
:data:`NEEDS_GPU_IN_RTX`.
"""

from __future__ import annotations

from typing import Any

from deployfold.compiling.request import LIBRARY_TITLES, EngineRequest
from deployfold.config.engine import EngineOptions
from deployfold.config.shapes import InputShapes
from deployfold.errors import CompileError
from deployfold.targets.catalogue import sm_name

from .network import inputs_of

NOT_IN_RTX = {
    "timing_cache": "its timing cache does nothing since 1.2, and it times no kernels when it "
    "builds",
    "hardware_compatibility": "it takes no hardware compatibility level; build for several SMs "
    "instead",
    "version_compatible": "it ships no lean runtime for such an engine to carry",
    "dla_core": "it builds for GPUs alone",
}
"""Options that TensorRT-RTX has no use for, and why. Seen with 1.7.1: its own warnings say the
first two, the third fails with a missing libnvinfer_lean.so.1, ``num_DLA_cores`` is 0."""

NEEDS_GPU_IN_RTX = {"strip_plan": "weight-stripped", "refit": "refittable"}
"""Options with which TensorRT-RTX 1.7.1 fails without a driver («CHECK(status == CUDA_SUCCESS)»).
``REFIT_INDIVIDUAL`` alone builds, but not with a weight that is marked."""

BUILDER_FLAGS = {
    "version_compatible": "VERSION_COMPATIBLE",
    "exclude_lean_runtime": "EXCLUDE_LEAN_RUNTIME",
    "weight_streaming": "WEIGHT_STREAMING",
    "strip_plan": "STRIP_PLAN",
    "refit": "REFIT",
}
"""The members of ``trt.BuilderFlag`` that options set."""


def option_refusal(request: EngineRequest) -> str | None:
    """Why the library of a request cannot do what its options ask, known before a build."""
    if request.library != "tensorrt_rtx":
        return None
    title = LIBRARY_TITLES[request.library]
    asked = request.options.asked
    for name, reason in NOT_IN_RTX.items():
        if name in asked:
            return f"{title} cannot do {_words(name)}: {reason}."
    for name, what in NEEDS_GPU_IN_RTX.items():
        if name in asked and not (request.current_gpu or request.verify):
            return (
                f"{title} builds a {what} engine only where the GPU it is for and its driver are."
            )
    return None


def apply_options(trt: Any, builder: Any, config: Any, request: EngineRequest) -> None:
    """Give the builder the options of a request.

    Raises:
        CompileError: the library does not have one of them, or the GPU no such DLA core.
    """
    options, title = request.options, LIBRARY_TITLES[request.library]
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if request.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mib << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.hardware_compatibility != "none":
        level = options.hardware_compatibility.upper()
        # Not every TensorRT 10 has SAME_COMPUTE_CAPABILITY.
        if not hasattr(trt.HardwareCompatibilityLevel, level):
            raise _lacks(f"{title} {trt.__version__}", "hardware_compatibility", level)
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    for name, flag in BUILDER_FLAGS.items():
        if not getattr(options, name):
            continue
        if not hasattr(trt.BuilderFlag, flag):
            raise _lacks(f"{title} {trt.__version__}", name, flag)
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if options.dla_core is not None:
        _use_dla(trt, builder, config, options, title)


def _use_dla(trt: Any, builder: Any, config: Any, options: EngineOptions, title: str) -> None:
    cores = builder.num_DLA_cores if hasattr(builder, "num_DLA_cores") else 0
    assert options.dla_core is not None
    if options.dla_core >= cores:
        raise CompileError(
            f"{title} {trt.__version__} sees {cores or 'no'} DLA cores here, and core "
            f"{options.dla_core} was asked for.",
            hint="TensorRT 10.7 and older serve the DLA of a Jetson, and 11.4.1 that of an AGX "
            "Orin with JetPack 7.2.2.",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = options.dla_core
    if options.gpu_fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


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


def add_profiles(builder: Any, config: Any, network: Any, request: EngineRequest) -> None:
    """Give the builder the optimization profiles of a request; a fixed network needs none.

    Raises:
        CompileError: a profile does not fit the network's inputs, or one is needed.
    """
    inputs = inputs_of(network)
    dynamic = [name for name, tensor in inputs.items() if -1 in tuple(tensor.shape)]
    if dynamic and not request.profiles:
        raise CompileError(
            f"The input {dynamic[0]!r} has a dynamic shape {tuple(inputs[dynamic[0]].shape)}, and "
            "no optimization profile says how large it gets.",
            hint="Give one: --dynamic-batch 1:8:32.",
        )
    if dynamic and request.options.dla_core is not None:
        _check_fixed(request)
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


def _check_fixed(request: EngineRequest) -> None:
    # https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/dla-layer-restrictions.html
    for entry in (entry for shapes in request.profiles for entry in shapes):
        if not entry.min == entry.opt == entry.max:
            raise CompileError(
                f"A DLA has no dynamic shapes, and {entry.name!r} goes from {entry.min} to "
                f"{entry.max}.",
                hint="Give one size as min, opt and max.",
            )


def _lacks(library: str, option: str, name: str) -> CompileError:
    return CompileError(
        f"{library} cannot do {_words(option)}: it has no {name}.",
        hint="Leave it out, or install a newer version.",
    )


def _words(option: str) -> str:
    words = {
        "timing_cache": "a timing cache",
        "hardware_compatibility": "hardware compatibility",
        "version_compatible": "version-compatible engines",
        "exclude_lean_runtime": "engines without their lean runtime",
        "weight_streaming": "weight streaming",
        "strip_plan": "weight-stripped engines",
        "refit": "refitting",
        "dla_core": "DLA",
    }
    return words[option]
