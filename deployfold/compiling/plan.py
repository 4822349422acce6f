"""From ``--target`` to the engines to build: a pure function of the names and the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deployfold.config.precision import Precision
from deployfold.config.spec import GpuTarget
from deployfold.targets.catalogue import AUTO, load_targets, resolve, sm_name
from deployfold.targets.hardware import precision_refusal, serving
from deployfold.targets.machine import Gpu, Machine

from .compilers import PORTABLE_COMPUTE_CAPABILITIES, RTX_COMPUTE_CAPABILITIES, compiler_for
from .request import EngineRequest, Library, NoEngine

PORTABLE = "portable"
"""The target that is no GPU: one TensorRT-RTX engine for several."""


def check_target(name: str) -> None:
    """Make sure that ``--target`` takes ``name``.

    Raises:
        UsageError: it is unknown; the message names the nearest ones.
    """
    if name.strip().lower() not in (AUTO, PORTABLE):
        for part in name.split(","):
            resolve(part)


def plan_engines(
    targets: Sequence[str], precision: Precision, machine: Machine
) -> tuple[EngineRequest | NoEngine, ...]:
    """The engines to build, in the order of ``targets``.

    1. ``auto`` with a GPU: an engine for it, by TensorRT where that is installed, else by
       TensorRT-RTX.
    2. ``portable``, and ``auto`` without a GPU: one TensorRT-RTX engine for SM 80, 86, 89 and 120.
    3. A named target: by the library that :func:`~deployfold.compiling.compilers.compiler_for`
       names; ``NoEngine`` with its reason where none serves it.
    4. Several names with commas between: one TensorRT-RTX engine for all of them.
    5. ``NoEngine`` where the GPU does not have the precision; the portable engine leaves out the
       SMs that do not.
    6. Targets that need the same engine share it.

    The requests have no optimization profiles yet.

    Args:
        targets: names as ``--target`` takes them.
        precision: the precision of the lowered ONNX.
        machine: what :func:`~deployfold.targets.machine.detect` saw.

    Raises:
        UsageError: a name is unknown.
    """
    known = load_targets()
    plan: list[EngineRequest | NoEngine] = []
    for name in targets:
        word = name.strip().lower()
        if word == PORTABLE:
            entry = _portable(PORTABLE, precision, machine)
        elif word == AUTO:
            entry = _auto(precision, machine, known)
        elif "," in word:
            gpus = [resolve(part, known) for part in name.split(",")]
            entry = _shared(name.strip(), gpus, precision, machine)
        else:
            entry = _named(name.strip(), resolve(name, known), precision, machine)
        _add(plan, entry)
    return tuple(plan)


def _auto(
    precision: Precision, machine: Machine, known: Sequence[GpuTarget]
) -> EngineRequest | NoEngine:
    if machine.gpu is not None:
        return _named(AUTO, _target_of(machine.gpu, machine.profile), precision, machine, True)
    return _portable(AUTO, precision, machine)


def _portable(name: str, precision: Precision, machine: Machine) -> EngineRequest | NoEngine:
    where = "No NVIDIA GPU here: one" if name == AUTO else "One"
    if machine.tensorrt_rtx is None:
        why = "tensorrt-rtx, which builds it"
        if name == AUTO:
            why = "this machine has no NVIDIA GPU, and tensorrt-rtx, which builds without one"
        return NoEngine(
            name,
            f"No engine: {why}, is not installed; pip install tensorrt-rtx. "
            "The lowered ONNX is ready.",
        )
    capabilities = tuple(serving(precision.value, PORTABLE_COMPUTE_CAPABILITIES, "tensorrt_rtx"))
    names = ", ".join(sm_name(capability) for capability in capabilities)
    note = f"{where} portable TensorRT-RTX engine for {names}."
    return _several(name, capabilities, note, precision, machine)


def _shared(
    name: str, gpus: Sequence[GpuTarget], precision: Precision, machine: Machine
) -> EngineRequest | NoEngine:
    capabilities = tuple(sorted({gpu.compute_capability for gpu in gpus}))
    where = ", ".join(map(sm_name, capabilities))
    alone = "TensorRT-RTX, which alone builds one engine for several GPUs,"
    unknown = [pair for pair in capabilities if pair not in RTX_COMPUTE_CAPABILITIES]
    reason = precision_refusal(precision.value, capabilities, "tensorrt_rtx")
    if unknown:
        lacking = ", ".join(map(sm_name, unknown))
        reason = f"No engine for {where}: {alone} does not know {lacking}. Name each by itself."
    elif machine.tensorrt_rtx is None:
        reason = f"No engine for {where}: {alone} is not installed; pip install tensorrt-rtx."
    if reason is not None:
        return NoEngine(name, reason, elsewhere=False)
    note = f"One TensorRT-RTX engine for {where}."
    return _several(name, capabilities, note, precision, machine)


def _several(
    name: str,
    capabilities: tuple[tuple[int, int], ...],
    note: str,
    precision: Precision,
    machine: Machine,
) -> EngineRequest:
    """One engine of TensorRT-RTX for all of those SMs."""
    return EngineRequest(
        library="tensorrt_rtx",
        precision=precision,
        targets=(name,),
        compute_capabilities=capabilities,
        verify=machine.gpu is not None and machine.gpu.compute_capability in capabilities,
        notes=(note, *_caveats(precision, "tensorrt_rtx")),
    )


def _named(
    name: str, target: GpuTarget, precision: Precision, machine: Machine, auto: bool = False
) -> EngineRequest | NoEngine:
    compiler = compiler_for(target, machine)
    if compiler.library is None:
        return NoEngine(name, compiler.reason)
    here = (target.compute_capability,)
    refusal = precision_refusal(precision.value, here, compiler.library)
    if refusal is not None:
        elsewhere = precision_refusal(precision.value, here, "tensorrt") is None
        return NoEngine(name, refusal, elsewhere=elsewhere)
    rtx = compiler.library == "tensorrt_rtx"
    gpu = machine.gpu
    return EngineRequest(
        library=compiler.library,
        precision=precision,
        targets=(name,),
        compute_capabilities=(target.compute_capability,),
        current_gpu=auto or not rtx,
        verify=gpu is not None and gpu.compute_capability == target.compute_capability,
        notes=(compiler.reason, *_caveats(precision, compiler.library)),
    )


def _target_of(gpu: Gpu, profile: GpuTarget | None) -> GpuTarget:
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
