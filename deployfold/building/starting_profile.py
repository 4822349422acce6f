"""A first build profile for a model: what was found is set, and what is left to fill in commented.

A profile never names code, since a file must not choose what runs. An architecture of the form
``package.module:factory`` and the flags that trust a checkpoint stay on the command line.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from torch import nn

from deployfold.building.load import model_of, with_asked_arguments
from deployfold.config.build_spec import BuildSpec
from deployfold.config.flag_values import is_function
from deployfold.config.inputs import InputSpec
from deployfold.config.precision import Precision, titles
from deployfold.errors import UsageError
from deployfold.folding import count_parameters
from deployfold.loading import LoadedModel, in_single_precision, resolve_inputs
from deployfold.reporting import text
from deployfold.targets.catalogue import GpuTarget
from deployfold.targets.machine import Gpu, Machine

from .resolve_onnx_inputs import resolve_onnx_inputs


@dataclass(frozen=True)
class StartingProfile:
    """The text of a profile, and the command that builds with it.

    Attributes:
        name: the model's name, for the name of the file.
        summary: what was found, in one sentence.
        command: builds with the profile; it has what the profile cannot hold.
    """

    text: str
    name: str
    summary: str
    command: str


def starting_profile(spec: BuildSpec, machine: Machine, file: str | None) -> StartingProfile:
    """Load a model as a build does, and write a profile for it.

    Args:
        machine: whose GPU decides which precisions are offered.
        file: where the profile will be, for its first lines; the model's name if ``None``.

    Raises:
        LoadError, UsageError: the model cannot be loaded.
    """
    model = model_of(spec)
    model = with_asked_arguments(model, spec, spec.inputs)
    model, requested = in_single_precision(model, spec.inputs)
    try:
        resolve = resolve_onnx_inputs if model.kind == "onnx" else resolve_inputs
        inputs = resolve(model, requested)
    except UsageError:
        if requested is not None:
            raise
        inputs = None  # the profile asks for it
    command = ["deployfold", "build", spec.source, "--profile", file or f"{model.name}.toml"]
    command += _flags(spec)
    lines = [
        f"# A build profile for {_comment(spec.source)}. Run it with:",
        f"#   {_comment(shlex.join(command))}",
        "# Every key is a flag of deployfold build; a flag on the command line overrides it.",
        "# deployfold build --help-all lists them all.",
        "",
        f"description = {_text(f'{model.name}, written by deployfold init')}",
        "",
        *_model(model, spec),
        *_inputs(inputs),
        *_precisions(machine),
        *_rest(inputs),
    ]
    return StartingProfile(
        "\n".join(lines) + "\n", model.name, _summary(model, inputs), shlex.join(command)
    )


def _model(model: LoadedModel, spec: BuildSpec) -> list[str]:
    lines = [f"# {_comment(_contents(model))}"]
    if is_function(spec.arch):
        lines.append("# The architecture is code, which a profile cannot name: give --arch.")
    elif model.arch is not None and model.kind == "state_dict":
        lines.append(f"arch = {_text(model.arch)}")
    if spec.arch_options:
        written = [f"{name}={value}" for name, value in spec.arch_options]
        lines.append(f"arch-arg = {json.dumps(written, ensure_ascii=False)}")
    if spec.fixed:
        written = [f"{name}={value}" for name, value in spec.fixed]
        lines.append(f"fix = {json.dumps(written, ensure_ascii=False)}")
    if spec.weights is not None:
        lines.append(f"weights = {_text(spec.weights)}")
    return [*lines, ""]


def _inputs(inputs: InputSpec | None) -> list[str]:
    if inputs is None:
        return [
            "# The shape of the input was not found. Fill it in; for several inputs with names,",
            '# such as ["ids=1x16:int64", "mask=1x16:int64"].',
            '# input = ["1x3x224x224"]',
            "",
        ]
    several = len(inputs.tensors) > 1  # a single input needs no name, and may have none
    shapes = [
        (f"{name}=" if several else "") + f"{'x'.join(map(str, one.shape))}:{one.dtype}"
        for name, one in zip(inputs.names, inputs.tensors, strict=True)
        if one.shape
    ]
    if len(shapes) < len(inputs.tensors):  # a scalar has no shape that could be written
        return [f"# Inputs, from {_comment(inputs.origin)}: {_comment(str(inputs))}", ""]
    return [
        f"# From {_comment(inputs.origin)}.",
        f"input = {json.dumps(shapes, ensure_ascii=False)}",
        "",
    ]


def _precisions(machine: Machine) -> list[str]:
    """FP16 set, and the others of the machine's GPU, or of any, commented."""
    gpu = machine.gpu
    if gpu is None:
        lines = [
            "# No NVIDIA GPU here: the engine is built for several. Name yours if you know it;",
            "# deployfold targets lists the names.",
            '# target = ["l4"]',
        ]
    else:
        lines = [f"# For the GPU in this machine: {_comment(gpu.name)}."]
    lines.append("fp16 = true")
    for one in Precision:
        if one in (Precision.FP32, Precision.FP16):
            continue
        if gpu is None or _has(gpu, machine.profile, one):
            lines.append(f"# {one.value} = true  # {one.record.summary}")
    calibrated = [one for one in Precision if one.record.calibration == "required"]
    return [
        *lines,
        "",
        f"# {titles(calibrated)} need data like that of the deployment:",
        "# a folder of images, or an .npz. The path is relative to this file.",
        '# calib = "pictures"',
        '# labels = "labels.csv"  # measures the accuracy as well',
        "",
    ]


def _has(gpu: Gpu, profile: GpuTarget | None, precision: Precision) -> bool:
    if profile is not None and precision.record.tensor_cores:
        return precision.value in profile.precisions
    return gpu.compute_capability >= precision.record.oldest_for("tensorrt")


def _rest(inputs: InputSpec | None) -> list[str]:
    batch = inputs.batch if inputs else 1
    return [
        "# Serve several batch sizes: minimum, optimum, maximum.",
        f'# dynamic-batch = "1:{max(batch, 8)}:{4 * max(batch, 8)}"',
        "",
        "# Fail with exit code 7 if a result is past a limit.",
        "# min-speedup = 1.5",
        "# max-diff = 1e-3",
    ]


def _contents(model: LoadedModel) -> str:
    if model.kind == "onnx":
        return f"An ONNX, {text.size(model.bytes)}."
    norms = sum(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in model.module.modules())
    kind = model.arch or type(model.module).__name__
    return f"{kind}: {count_parameters(model.module):,} parameters, {norms} BatchNorm layers."


def _summary(model: LoadedModel, inputs: InputSpec | None) -> str:
    shown = f"input {inputs}" if inputs else "the shape of its input is to be filled in"
    return f"{_contents(model).rstrip('.')}; {shown}."


def _flags(spec: BuildSpec) -> list[str]:
    flags = ["--arch", spec.arch] if spec.arch and is_function(spec.arch) else []
    for name in spec.allow_globals:
        flags += ["--allow-global", name]
    return [*flags, "--trust"] if spec.trust else flags


def _comment(text: str) -> str:
    """``text`` on one line, since the rest of it would not be a comment."""
    return " ".join(text.split())


def _text(value: str) -> str:
    """A TOML string; JSON's escapes are TOML's as well."""
    return json.dumps(value, ensure_ascii=False)
