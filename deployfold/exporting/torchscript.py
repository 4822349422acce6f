"""Exports TorchScript: traces or scripts a model, freezes, saves, loads and compares it.

TorchScript is deprecated, but works in every supported torch. In a torch without TorchScript,
:func:`export_torchscript` raises an ``ExportError``, and the other formats still work.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch.export import ExportedProgram

from deployfold.errors import ExportError, first_few, first_line
from deployfold.runtimes import TORCHSCRIPT as RUNTIME
from deployfold.util.files import atomic_path, disk_is_full
from deployfold.util.quiet import TORCHSCRIPT_IS_FINE, quiet
from deployfold.util.torch_files import save_scripted

from .baked import baked_note, noting_baked
from .dynamic import checking_inputs
from .exporter import ExportedFile, Exporter, ExportJob
from .outputs import (
    FlatOutputs,
    call_module,
    compare_loaded,
    copies,
    is_flat,
    is_torchscript,
    run_module,
)

_WHAT = "The TorchScript model"


@dataclass(frozen=True, kw_only=True)
class TorchScriptArtifact(ExportedFile):
    """A TorchScript archive on disk.

    Attributes:
        method: the way of compilation; ``"frozen"`` if the model was TorchScript already.
    """

    method: Literal["traced", "scripted", "frozen"]


def export_torchscript(
    job: ExportJob, path: Path, *, program: ExportedProgram | None = None
) -> TorchScriptArtifact:
    """Write a model as a TorchScript archive.

    The module is traced, or scripted, and then frozen without numeric optimisations, so that the
    arithmetic stays unchanged. A ``ScriptModule`` is only frozen. With a dynamic batch, a second
    batch size is compared too, and the notes have the result.

    Args:
        program: trace this exported program of the module instead of its Python code, which may
            have attributes that TorchScript cannot take.

    Raises:
        ExportError: the model cannot be traced or scripted, the loaded archive's outputs differ, or
            this torch has no TorchScript.
    """
    if not hasattr(torch, "jit") or not hasattr(torch.jit, "trace"):
        raise ExportError(
            "This version of torch has no TorchScript.", hint="Use the .pt2 file instead."
        )
    inputs = job.inputs
    expected = job.reference.flat(inputs)
    with TORCHSCRIPT_IS_FINE.made(), quiet(), noting_baked() as baked:
        traced = job.module if program is None else _graph_of(program)
        converted, method, flattened = _convert(traced, inputs, script=job.script)
        frozen, notes = _freeze(converted)
    notes += flattened
    # The archive contains the name of its file, so the name is fixed. Saving to a buffer, without a
    # name, would need two further copies of the weights in memory.
    with atomic_path(path, name="archive") as temporary:
        _save(frozen, temporary)
        with TORCHSCRIPT_IS_FINE.made(), quiet():
            loaded = torch.jit.load(str(temporary), map_location=expected[0].device)  # type: ignore[no-untyped-call]
        difference = compare_loaded(loaded, inputs, expected, what=_WHAT)
        size = temporary.stat().st_size
    if method == "traced":
        notes += baked_note(baked)
    fixed, compared = _compare_batch(job, loaded)
    return TorchScriptArtifact(
        path=path,
        bytes=size,
        method=method,
        max_abs_diff=difference,
        notes=(*notes, *compared),
        fixed_batch=fixed,
    )


def _convert(
    module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], *, script: bool
) -> tuple[Any, Literal["traced", "scripted", "frozen"], tuple[str, ...]]:
    """The compiled module, the way of compilation, and a note if the outputs changed their form."""
    if is_torchscript(module):
        return module, "frozen", ()
    try:
        if script:
            return torch.jit.script(module), "scripted", ()
        with torch.no_grad():
            # strict=False allows outputs in dicts and lists. The saved file is compared later.
            return _trace(module, inputs), "traced", ()
    except Exception as error:
        if script:
            raise ExportError(
                f"torch.jit.script cannot compile this model: {first_line(error)}",
                hint="Remove --script to trace it instead.",
            ) from error
        flat = None if is_flat(call_module(module, inputs)) else _traced_flat(module, inputs)
        if flat is not None:
            return flat
        raise ExportError(
            f"torch.jit.trace cannot trace this model: {_without_values(first_line(error))}",
            hint="Try --script, which compiles the Python source instead.",
        ) from error


def _graph_of(program: ExportedProgram) -> torch.nn.Module:
    """The module of a program, without its checks of the input shapes, which no tracer takes."""
    unguarded = "check_guards" in inspect.signature(program.module).parameters  # torch 2.9
    module = program.module(check_guards=False) if unguarded else program.module()
    module._forward_pre_hooks.clear()  # of this copy alone
    return module


def _trace(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
    return torch.jit.trace(module, copies(inputs), strict=False, check_trace=False)  # type: ignore[no-untyped-call]


def _traced_flat(
    module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]
) -> tuple[Any, Literal["traced"], tuple[str, ...]] | None:
    """The module traced with its outputs as one flat tuple; ``None`` if that fails too.

    TorchScript has no type for some nested containers, such as a dict in a tuple.
    """
    _, names = run_module(module, inputs)
    try:
        with torch.no_grad():
            traced = _trace(FlatOutputs(module), inputs)
    except Exception:  # the user sees the error of the first attempt
        return None
    return traced, "traced", (f"TorchScript returns its outputs as one tuple: {first_few(names)}.",)


def _without_values(reason: str) -> str:
    """A tracer's message without the tensors that it prints."""
    return re.sub(r"\(?tensor\(.*", "a nested structure of tensors.", reason)


def _freeze(module: Any) -> tuple[Any, tuple[str, ...]]:
    if not hasattr(module, "training"):
        return module, ()  # freezing removes the attribute, so the module is already frozen
    try:
        # optimize_numerics would fold and reorder float arithmetic without verification.
        return torch.jit.freeze(module.eval(), optimize_numerics=False), ()
    except Exception as error:
        return module, (f"Saved without freezing: {first_line(error)}",)


def _save(module: Any, path: Path) -> None:
    try:
        with TORCHSCRIPT_IS_FINE.made(), quiet():
            save_scripted(module, path)
    except OSError:
        raise
    except Exception as error:
        if disk_is_full(path.parent):
            raise
        raise ExportError(f"TorchScript cannot save this model: {first_line(error)}") from error


def _compare_batch(job: ExportJob, loaded: torch.nn.Module) -> tuple[bool, tuple[str, ...]]:
    """Whether the archive takes only the traced batch size, and a note on that."""
    for other in checking_inputs(job.inputs, job.spec)[1:]:
        batch = next((value.shape[0] for value in other if value.ndim), 1)
        expected = job.reference.flat(other)
        try:
            compare_loaded(loaded, other, expected, what=_WHAT)
        except ExportError as error:
            only = "The TorchScript model serves only the batch size it was traced with"
            return True, (f"{only}; at batch {batch}: {error.message}",)
        return False, (f"The TorchScript model was also compared at batch {batch}.",)
    return False, ()


def _export(job: ExportJob, path: Path) -> TorchScriptArtifact:
    """Trace the module, or if TorchScript cannot take its code, its exported program."""
    try:
        return export_torchscript(job, path)
    except ExportError as error:
        if job.script or is_torchscript(job.module):
            raise
        try:
            made = export_torchscript(job, path, program=job.program)
        except ExportError:
            raise error from None  # the message of the first attempt is about the user's code
        reason = error.message.partition(". ")[0].rstrip(".")
        note = f"TorchScript was traced from the exported program, because {reason}."
        return replace(made, notes=(*made.notes, note))


TORCHSCRIPT = Exporter(
    key="torchscript",
    row="torchscript",
    title="TorchScript",
    label="TorchScript",
    runtime=RUNTIME,
    export=_export,
)
