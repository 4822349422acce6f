"""Plans the engines to build for ``--target``, as a pure function of the names and the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deployfold.config.build_spec import BuildSpec
from deployfold.config.optimization_profiles import OptimizationProfile
from deployfold.config.precision import Precision
from deployfold.targets.catalogue import AUTO, GpuTarget, load_targets, resolve
from deployfold.targets.compute_capability import ComputeCapability, sm_name, sm_names
from deployfold.targets.libraries import LIBRARIES, Library, capabilities_with, precision_refusal
from deployfold.targets.machine import Gpu, Machine

from .compiler_choice import compiler_for, no_engine
from .records import EngineRequest, NoEngine
from .tensorrt.builder_config import option_refusal

PORTABLE = "portable"
"""The target for one TensorRT-RTX engine that serves several GPUs."""

_RTX = LIBRARIES["tensorrt_rtx"]


def check_target(name: str) -> None:
    """Check that ``name`` is a valid ``--target``.

    Raises:
        UsageError: the name is unknown; the hint suggests the nearest ones.
    """
    if name.strip().lower() not in (AUTO, PORTABLE):
        for part in name.split(","):
            resolve(part)


def plan_engines(
    targets: Sequence[str], precision: Precision, machine: Machine
) -> tuple[EngineRequest | NoEngine, ...]:
    """The engines to build, in the order of ``targets``.

    1. ``auto`` with a GPU: an engine for that GPU, by TensorRT if it is installed, else by
       TensorRT-RTX.
    2. ``portable``, and ``auto`` without a GPU: one TensorRT-RTX engine for the GPUs of
       ``LibraryRecord.portable``, without those that lack the precision.
    3. Several names separated by commas: one TensorRT-RTX engine for all of them.
    4. One name: an engine by the library of :func:`~.compiler_choice.compiler_for`.

    A ``NoEngine`` replaces an engine that no library can build here in this precision. Targets that
    need the same engine share it. The requests have no optimization profiles yet.

    Raises:
        UsageError: a name is unknown.
    """
    known = load_targets()
    plan: list[EngineRequest | NoEngine] = []
    for target in targets:
        name = target.strip()
        word = name.lower()
        if word == AUTO and machine.gpu is not None:
            gpu = _target_of(machine.gpu, machine.profile)
            entry = _named(AUTO, gpu, precision, machine, auto=True)
        elif word in (AUTO, PORTABLE):
            entry = _portable(word, precision, machine)
        elif "," in word:
            gpus = [resolve(part, known) for part in name.split(",")]
            entry = _shared(name, gpus, precision, machine)
        else:
            entry = _named(name, resolve(name, known), precision, machine)
        _add(plan, entry)
    return tuple(plan)


def engines_of(
    spec: BuildSpec,
    precision: Precision,
    machine: Machine,
    profiles: tuple[OptimizationProfile, ...] = (),
) -> tuple[EngineRequest | NoEngine, ...]:
    """The engines of a build in one precision, with the options of the build.

    A ``NoEngine`` for each target replaces a request whose library lacks one of the options.

    Raises:
        UsageError: a target is unknown.
    """
    found: list[EngineRequest | NoEngine] = []
    for entry in plan_engines(spec.targets, precision, machine):
        if isinstance(entry, NoEngine):
            found.append(entry)
            continue
        request = replace(
            entry, profiles=profiles, workspace_mib=spec.workspace_mib, options=spec.options
        )
        refusal = option_refusal(request)
        if refusal is None:
            found.append(request)
        else:
            found += [NoEngine(target, refusal) for target in request.targets]
    return tuple(found)


def _portable(name: str, precision: Precision, machine: Machine) -> EngineRequest | NoEngine:
    """Case 2 of :func:`plan_engines`."""
    if machine.tensorrt_rtx is None:
        why = f"TensorRT-RTX, which builds it, is not installed; {_RTX.install}"
        if name == AUTO:
            why = (
                "this machine has no NVIDIA GPU, and TensorRT-RTX, which builds without one, is "
                f"not installed; {_RTX.install}"
            )
        return NoEngine(name, no_engine("", why))
    capabilities = capabilities_with(precision, _RTX.portable, "tensorrt_rtx")
    one = "No NVIDIA GPU here: one" if name == AUTO else "One"
    note = f"{one} portable TensorRT-RTX engine for {sm_names(capabilities)}."
    return _several(name, capabilities, note, precision, machine)


def _shared(
    name: str, gpus: Sequence[GpuTarget], precision: Precision, machine: Machine
) -> EngineRequest | NoEngine:
    """Case 3 of :func:`plan_engines`."""
    capabilities = tuple(sorted({gpu.compute_capability for gpu in gpus}))
    where = sm_names(capabilities)
    only = "only TensorRT-RTX builds one engine for several GPUs, and it"
    unknown = [one for one in capabilities if one not in _RTX.compute_capabilities]
    if unknown:
        why = f"{only} does not know {sm_names(unknown)}"
        reason = no_engine(where, why, "Name each GPU in a --target of its own.")
        return NoEngine(name, reason, elsewhere=False)
    if machine.tensorrt_rtx is None:
        reason = no_engine(where, f"{only} is not installed; {_RTX.install}")
        return NoEngine(name, reason, elsewhere=False)
    refusal = precision_refusal(precision, capabilities, "tensorrt_rtx")
    if refusal is not None:
        return NoEngine(name, refusal, elsewhere=False)
    return _several(name, capabilities, f"One TensorRT-RTX engine for {where}.", precision, machine)


def _several(
    name: str,
    capabilities: tuple[ComputeCapability, ...],
    note: str,
    precision: Precision,
    machine: Machine,
) -> EngineRequest:
    """One TensorRT-RTX engine for all of the compute capabilities."""
    return EngineRequest(
        library="tensorrt_rtx",
        precision=precision,
        targets=(name,),
        compute_capabilities=capabilities,
        verify=machine.gpu is not None and machine.gpu.compute_capability in capabilities,
        notes=(note, *_caveats(precision, "tensorrt_rtx")),
    )


def _named(
    name: str, target: GpuTarget, precision: Precision, machine: Machine, *, auto: bool = False
) -> EngineRequest | NoEngine:
    """Cases 1 and 4 of :func:`plan_engines`: an engine for one GPU."""
    choice, gpu = compiler_for(target, machine), machine.gpu
    capabilities = (target.compute_capability,)
    on_device = precision_refusal(precision, capabilities, "tensorrt")
    if choice.library is None:
        return NoEngine(name, on_device or choice.reason, elsewhere=on_device is None)
    refusal = precision_refusal(precision, capabilities, choice.library)
    if refusal is not None:
        return NoEngine(name, refusal, elsewhere=on_device is None)
    return EngineRequest(
        library=choice.library,
        precision=precision,
        targets=(name,),
        compute_capabilities=capabilities,
        current_gpu=auto or choice.library == "tensorrt",
        verify=gpu is not None and gpu.compute_capability == target.compute_capability,
        notes=(choice.reason, *_caveats(precision, choice.library)),
    )


def _target_of(gpu: Gpu, profile: GpuTarget | None) -> GpuTarget:
    """The profile of the GPU in the machine, or a target made from the driver's facts."""
    if profile is not None:
        return profile
    return GpuTarget(
        name=sm_name(gpu.compute_capability),
        title=gpu.name,
        compute_capability=gpu.compute_capability,
        memory_gib=gpu.memory_gib or 0.0,
        precisions=(),
        source="the driver",
    )


def _caveats(precision: Precision, library: Library) -> tuple[str, ...]:
    caveat = precision.record.caveats.get(library)
    return () if caveat is None else (caveat,)


def _add(plan: list[EngineRequest | NoEngine], entry: EngineRequest | NoEngine) -> None:
    """Append an entry, or add its target names to an equal request in the plan."""
    for index, other in enumerate(plan):
        if other == entry:
            return
        if isinstance(other, EngineRequest) and isinstance(entry, EngineRequest):
            if replace(entry, targets=other.targets) != other:
                continue
            names = dict.fromkeys((*other.targets, *entry.targets))
            plan[index] = replace(other, targets=tuple(names))
            return
    plan.append(entry)
