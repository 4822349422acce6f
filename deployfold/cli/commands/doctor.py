"""Show the installed packages, the GPU and driver, and the compilers that work."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from deployfold.cli.in_session import in_session
from deployfold.cli.session import Session
from deployfold.targets.libraries import LIBRARIES

_OTHERS = (
    ("onnx", "pip install onnx", False),
    ("onnxscript", "pip install onnxscript", False),
    (
        "tensorrt_rtx",
        f"{LIBRARIES['tensorrt_rtx'].install} (builds engines, also without a GPU)",
        True,
    ),
    ("torchvision", "pip install 'deployfold[zoo]'", True),
    ("timm", "pip install 'deployfold[zoo]'", True),
)
"""Modules that no runtime needs: the command that installs each, and whether it is optional."""


@dataclass(frozen=True)
class _Check:
    name: str
    state: str  # "ok", "missing" or "optional"
    detail: str


@in_session("json")
def doctor(
    run: Session,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also run a test engine on the GPU, and compare its outputs."),
    ] = False,
) -> None:
    """The command ``deployfold doctor``."""
    checks = [*_packages(), *_gpu(), *_compilers(deep)]
    if run.json:
        entries = [vars(check) for check in checks]
        run.write_json(entries)
        return
    from rich.markup import escape
    from rich.table import Column, Table

    table = Table.grid("", "", Column(overflow="fold"), padding=(0, 1))
    marks = {"ok": ("✓", "green"), "missing": ("✗", "red"), "optional": ("–", "dim")}
    for check in checks:
        mark, style = marks[check.state]
        table.add_row(f"[{style}]{mark}[/]", f"[bold]{check.name}[/]", escape(check.detail))
    run.out.print(table)


def _packages() -> list[_Check]:
    """The versions of Python, of the runtimes' modules, and of the other modules."""
    from deployfold.runtimes import all_runtimes, broken_runtimes
    from deployfold.targets.machine import library_version

    modules = {one.module: (one.how_to_install, one.optional) for one in all_runtimes()}
    modules |= {module: (install, optional) for module, install, optional in _OTHERS}
    checks = [_Check("python", "ok", sys.version.split()[0])]
    for module, (install, optional) in modules.items():
        name, version = module.replace("_", "-"), library_version(module)
        if version is None:
            state = "optional" if optional else "missing"
            checks.append(_Check(name, state, f"not installed: {install}"))
        else:
            found = _Check(name, "ok", version)
            checks.append(_onnxruntime(version) if module == "onnxruntime" else found)
    for one in all_runtimes():
        if (reason := one.missing()) is not None:
            checks.append(_Check(one.title, "optional", reason))
    checks += [_Check(one.name, "missing", one.reason) for one in broken_runtimes()]
    return checks


def _onnxruntime(version: str) -> _Check:
    """ONNX Runtime with its execution providers, whose own libraries may still be missing."""
    try:
        import onnxruntime
    except ImportError as error:
        return _Check("onnxruntime", "missing", f"{version} cannot be imported: {error}")
    names = [
        name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
    ]
    return _Check("onnxruntime", "ok", f"{version}, providers {', '.join(names)}")


def _gpu() -> list[_Check]:
    from deployfold.targets.compute_capability import sm_name
    from deployfold.targets.machine import detect

    gpu = detect().gpu
    if gpu is None:
        return [_Check("NVIDIA GPU", "optional", "none, or no driver: engines are built, not run")]
    driver = f", driver {gpu.driver_version}" if gpu.driver_version else ""
    return [_Check("NVIDIA GPU", "ok", f"{gpu.name}, {sm_name(gpu.compute_capability)}{driver}")]


def _compilers(deep: bool) -> list[_Check]:
    """Build a tiny engine with each installed compiler, to show that the compiler works.

    With ``deep`` and a GPU, the engine also runs.
    """
    from deployfold.compiling.compiler_choice import runs_here
    from deployfold.compiling.trial_build import try_build
    from deployfold.finish.trial_run import try_run
    from deployfold.targets.machine import detect

    machine = detect()
    checks = []
    for library, record in LIBRARIES.items():
        if machine.version(library) is not None:
            run = deep and runs_here(library, machine)
            failure = try_build(library, machine, then=try_run if run else None)
            works = "builds and runs a test engine" if run else "builds a test engine"
            if deep and not run:
                works += "; this machine has no GPU to run it on"
            detail = works if failure is None else failure
            state = "ok" if failure is None else "missing"
            checks.append(_Check(record.title, state, detail))
    return checks
