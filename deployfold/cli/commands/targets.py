"""List the GPUs for --target, and the compiler on this machine that builds for each."""

from __future__ import annotations

from deployfold.cli.in_session import in_session
from deployfold.cli.session import Session


@in_session("json")
def targets(
    run: Session,
) -> None:
    """The command ``deployfold targets``."""
    from deployfold.compiling.compiler_choice import compiler_for
    from deployfold.targets.catalogue import load_targets
    from deployfold.targets.compute_capability import dotted
    from deployfold.targets.machine import detect

    machine = detect()
    served = [(gpu, compiler_for(gpu, machine)) for gpu in load_targets()]
    if run.json:
        entries = [
            {
                "name": gpu.name,
                "aliases": list(gpu.aliases),
                "title": gpu.title,
                "compute_capability": dotted(gpu.compute_capability),
                "memory_gib": gpu.memory_gib,
                "precisions": list(gpu.precisions),
                "compiler": compiler.library,
                "reason": compiler.reason,
                "source": gpu.source,
            }
            for gpu, compiler in served
        ]
        run.write_json(entries)
        return

    from rich.table import Table

    from deployfold.targets.libraries import LIBRARIES

    wide = run.out.width >= 100
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("--target", style="cyan", no_wrap=True)
    table.add_column("GPU", no_wrap=True)
    table.add_column("SM", no_wrap=True)
    table.add_column("GiB", justify="right", no_wrap=True)
    if wide:
        table.add_column("tensor cores", no_wrap=True)
    table.add_column("compiler here", no_wrap=True)
    for gpu, compiler in served:
        library = LIBRARIES[compiler.library].title if compiler.library else "–"
        cells = [gpu.name, gpu.title, gpu.sm, f"{gpu.memory_gib:g}"]
        cells += [" ".join(gpu.precisions)] if wide else []
        table.add_row(*cells, library)
    run.out.print(table)
    run.out.print(
        "\n–: no compiler on this machine builds for this GPU. A build then stops at the lowered "
        "ONNX and names the reason.",
        style="dim",
    )
