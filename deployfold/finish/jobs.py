"""The engines that ``deployfold finish`` builds: the kit's list, planned for the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from deployfold.compiling.planning import PORTABLE, plan_engines
from deployfold.compiling.records import EngineRequest, NoEngine
from deployfold.config import row_names
from deployfold.config.precision import Precision
from deployfold.errors import UsageError
from deployfold.targets.catalogue import AUTO, load_targets, resolve
from deployfold.targets.libraries import LIBRARIES
from deployfold.targets.machine import Machine

from .kit import Kit, Wanted


@dataclass(frozen=True)
class Job:
    """One engine to build, or the reason why it cannot be.

    Attributes:
        wanted: the profiles, the options and the row in the report, from the kit.
        entry: the request without profiles and options, from the plan for this machine.
    """

    wanted: Wanted
    entry: EngineRequest | NoEngine


def plan_jobs(
    kit: Kit, targets: Sequence[str], precisions: Sequence[Precision], machine: Machine
) -> Iterator[Job]:
    """The engines that ``deployfold finish`` builds: one for each precision and target.

    Args:
        targets: GPUs, in the form of ``--target``.
        precisions: some precisions of the kit; empty for those with missing engines, or all if no
            engine is missing.

    Raises:
        UsageError: the kit has no ONNX of a precision, or a target is unknown.
    """
    missing = [precision.value for precision in precisions if precision not in kit.onnx]
    if missing:
        found = ", ".join(precision.value for precision in kit.onnx)
        raise UsageError(
            f"The build has no {missing[0]} ONNX.", hint=f"Its precisions are {found}."
        )
    wanted = {one.precision for one in kit.wanted}
    for precision in precisions or [one for one in kit.onnx if one in wanted] or list(kit.onnx):
        for entry in plan_engines(targets, precision, machine):
            yield Job(_wanted(kit, entry, precision, machine), entry)


def _wanted(
    kit: Kit, entry: EngineRequest | NoEngine, precision: Precision, machine: Machine
) -> Wanted:
    """The entry of the kit for this engine.

    An engine for a GPU that the kit does not name gets a new row, with the optimization profiles
    and options of the kit's first engine in the precision.
    """
    same = [one for one in kit.wanted if one.precision is precision]
    for one in same:
        if _is_for(one.target, entry, machine):
            return one
    label = entry.target if isinstance(entry, NoEngine) else entry.label
    row = row_names.engine(precision, label)
    title = row_names.engine_title(LIBRARIES["tensorrt"].title, precision, label)
    if same:
        return replace(same[0], row=row, title=title, target=label)
    return Wanted(row, title, label, precision)


def _is_for(target: str, entry: EngineRequest | NoEngine, machine: Machine) -> bool:
    """Whether ``entry`` is the engine that the kit wants for ``target``."""
    if isinstance(entry, NoEngine):
        return target == entry.target
    if target in entry.targets:
        return True
    if target in (AUTO, PORTABLE) or "," in target:
        return False  # these targets stand for several GPUs
    gpu = resolve(target, load_targets())
    if entry.current_gpu:
        return machine.gpu_for(gpu) is not None
    return entry.compute_capabilities == (gpu.compute_capability,)
