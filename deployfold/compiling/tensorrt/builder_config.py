"""Configures the builder with the GPUs, the options and the optimization profiles of a request.

``hasattr`` finds most of the options that a library lacks. TensorRT-RTX also has members that do
nothing or need a driver; :data:`OPTIONS` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployfold.compiling.records import EngineRequest
from deployfold.config.optimization_profiles import InputShapes
from deployfold.errors import CompileError
from deployfold.targets.compute_capability import sm_name
from deployfold.targets.libraries import LIBRARIES

from .network import inputs_of


@dataclass(frozen=True)
class OptionSupport:
    """The libraries' support of one field of :class:`EngineOptions`.

    Attributes:
        noun: the option in a sentence, after «cannot do».
        flag: the member of ``trt.BuilderFlag`` that enables the option; empty for other kinds.
        not_in_rtx: the reason why TensorRT-RTX lacks the option; empty if it has the option.
        rtx_needs_gpu: TensorRT-RTX 1.7.1 fails without a driver («CHECK(status == CUDA_SUCCESS)»).
    """

    noun: str
    flag: str = ""
    not_in_rtx: str = ""
    rtx_needs_gpu: bool = False


OPTIONS: Mapping[str, OptionSupport] = {
    "timing_cache": OptionSupport(
        noun="a timing cache",
        # The warning of TensorRT-RTX 1.7.1 names version 1.2.
        not_in_rtx="its timing cache does nothing since 1.2, because it times no kernels when it "
        "builds",
    ),
    "hardware_compatibility": OptionSupport(
        noun="hardware compatibility",
        # The warning of TensorRT-RTX 1.7.1.
        not_in_rtx="it takes no hardware compatibility level; build for several GPUs instead",
    ),
    "version_compatible": OptionSupport(
        noun="version-compatible engines",
        flag="VERSION_COMPATIBLE",
        # TensorRT-RTX 1.7.1 fails with a missing libnvinfer_lean.so.1.
        not_in_rtx="it ships without the lean runtime that such an engine contains",
    ),
    "exclude_lean_runtime": OptionSupport(
        noun="engines without their lean runtime", flag="EXCLUDE_LEAN_RUNTIME"
    ),
    "weight_streaming": OptionSupport(noun="weight streaming", flag="WEIGHT_STREAMING"),
    "strip_plan": OptionSupport(
        noun="weight-stripped engines", flag="STRIP_PLAN", rtx_needs_gpu=True
    ),
    # REFIT_INDIVIDUAL builds without a driver, but fails once a weight is marked.
    "refit": OptionSupport(noun="refittable engines", flag="REFIT", rtx_needs_gpu=True),
    "dla_core": OptionSupport(
        noun="DLA",
        not_in_rtx="it builds only for GPUs",  # num_DLA_cores is 0 in 1.7.1
    ),
}
"""The options that not every library has on every machine."""

BUILDER_FLAGS = {name: one.flag for name, one in OPTIONS.items() if one.flag}
"""The members of ``trt.BuilderFlag``, by the options that set them."""


def option_refusal(request: EngineRequest) -> str | None:
    """Why the library of a request lacks one of its options, as far as known before the build.

    Returns:
        One sentence; ``None`` if no reason is known yet.
    """
    if request.library != "tensorrt_rtx":
        return None
    title = LIBRARIES[request.library].title
    requested = [OPTIONS[name] for name in request.options.changed if name in OPTIONS]
    for option in requested:
        if option.not_in_rtx:
            return f"{title} cannot do {option.noun}: {option.not_in_rtx}."
    for option in requested:
        if option.rtx_needs_gpu and not (request.current_gpu or request.verify):
            return f"{title} builds {option.noun} only on a machine with the GPU they are for."
    return None


def apply_options(trt: Any, builder: Any, config: Any, request: EngineRequest) -> None:
    """Set the options of a request in the builder's configuration.

    Raises:
        CompileError: the library lacks an option, or the machine lacks the DLA core.
    """
    options, title = request.options, LIBRARIES[request.library].title
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
    if not options.tf32:  # the libraries enable TF32 by default
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.dla_core is not None:
        _use_dla(trt, builder, config, options.dla_core, title)
        if options.gpu_fallback:
            config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _use_dla(trt: Any, builder: Any, config: Any, core: int, title: str) -> None:
    cores = builder.num_DLA_cores if hasattr(builder, "num_DLA_cores") else 0
    if core >= cores:
        raise CompileError(
            f"--dla-core {core}: {title} {trt.__version__} finds {cores or 'no'} DLA cores here.",
            hint="TensorRT 10.7 and older build for the DLA of a Jetson, and 11.4.1 for that of an "
            "AGX Orin with JetPack 7.2.2.",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core


def set_compute_capabilities(trt: Any, config: Any, request: EngineRequest) -> None:
    """Set the compute capabilities of a request, if the library has that setting.

    Raises:
        CompileError: the library does not support one of them.
    """
    title = LIBRARIES[request.library].title
    if not hasattr(config, "set_compute_capability"):
        if not request.current_gpu:
            raise CompileError(
                f"{title} builds only for the GPU in this machine.", hint="Use --target auto."
            )
        return
    if request.current_gpu:
        members = [trt.ComputeCapability.CURRENT]
    else:
        names = [sm_name(pair).replace("sm_", "SM") for pair in request.compute_capabilities]
        for name in names:
            if not hasattr(trt.ComputeCapability, name):
                raise CompileError(
                    f"{title} {trt.__version__} does not support {name}.",
                    hint="Choose another --target, or install a newer tensorrt-rtx.",
                )
        members = [getattr(trt.ComputeCapability, name) for name in names]
    config.num_compute_capabilities = len(members)
    for index, member in enumerate(members):
        if not config.set_compute_capability(member, index):
            raise CompileError(f"{title} refuses to build for {member}.")


def add_profiles(builder: Any, config: Any, network: Any, request: EngineRequest) -> None:
    """Add the optimization profiles of a request; a network of fixed shapes needs none.

    Raises:
        CompileError: a profile does not fit the network's inputs, or is missing.
    """
    inputs = inputs_of(network)
    dynamic = [name for name, tensor in inputs.items() if -1 in tuple(tensor.shape)]
    if dynamic and not request.profiles:
        raise CompileError(
            f"The input {dynamic[0]!r} has a dynamic shape {tuple(inputs[dynamic[0]].shape)}, but "
            "no optimization profile has bounds for it.",
            hint="Add bounds, such as --dynamic-batch 1:8:32.",
        )
    if dynamic and request.options.dla_core is not None:
        _check_fixed(request)
    for shapes in request.profiles:
        given = {entry.name: entry for entry in shapes}
        if given.keys() != inputs.keys():
            raise CompileError(
                f"The optimization profile is for the inputs {sorted(given)}, but the network has "
                f"{sorted(inputs)}.",
                hint="Use the network's names in --shapes.",
            )
        profile = builder.create_optimization_profile()
        for name, tensor in inputs.items():
            _check_shapes(tensor, given[name])
            if tensor.is_shape_tensor:
                raise CompileError(
                    f"The values of the input {name!r} determine shapes inside the network, but "
                    "deployfold cannot set bounds for values.",
                    hint="Export the model with this input fixed.",
                )
            entry = given[name]
            profile.set_shape(name, entry.min, entry.opt, entry.max)
        if dynamic and config.add_optimization_profile(profile) < 0:
            raise CompileError(f"The library refuses the optimization profile {given}.")


def _check_shapes(tensor: Any, shapes: InputShapes) -> None:
    fixed = tuple(tensor.shape)
    for shape in (shapes.min, shapes.opt, shapes.max):
        fits = len(shape) == len(fixed) and all(
            axis in (-1, wanted) for axis, wanted in zip(fixed, shape, strict=True)
        )
        if not fits:
            raise CompileError(
                f"The input {shapes.name!r} has the shape {fixed} in the ONNX (-1 is dynamic), "
                f"but the requested shape is {shape}.",
                hint="Export the ONNX with this axis dynamic, or request the shape in the ONNX.",
            )


def _check_fixed(request: EngineRequest) -> None:
    # https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/dla-layer-restrictions.html
    for entry in (entry for shapes in request.profiles for entry in shapes):
        if not entry.min == entry.opt == entry.max:
            raise CompileError(
                f"A DLA has no dynamic shapes, but the input {entry.name!r} ranges from "
                f"{entry.min} to {entry.max}.",
                hint="Give the same shape as min, opt and max.",
            )


def _lacks(library: str, option: str, name: str) -> CompileError:
    return CompileError(
        f"{library} cannot do {OPTIONS[option].noun}: it has no {name}.",
        hint="Remove the option, or install a newer version.",
    )
