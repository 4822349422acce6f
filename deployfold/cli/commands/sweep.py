"""Build models × precisions × targets; run it again to build what is missing or has changed.

A fleet file:

  precisions = ["fp16", "int8"]
  targets = ["l4", "rtx4090"]

  [build]                          # keys of a build profile, for every model
  no-measure = true
  calib = "pictures"

  [[model]]                        # its own keys override [build]
  source = "torchvision:resnet18"

Each combination gets a folder named by a hash of the checkpoint, the data, the settings and the
versions. sweep.json and sweep.md report all of them. A sweep that was killed continues where it
stopped.

Examples:
  deployfold sweep fleet.toml
  deployfold sweep fleet.toml --scheduler dask://builder:8786
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deployfold.cli import options as opt
from deployfold.cli.in_session import in_session
from deployfold.cli.session import Session


@in_session("json", "verbose")
def sweep(
    run: Session,
    fleet: Annotated[
        Path,
        typer.Argument(metavar="FLEET", help="A TOML file; see below.", show_default=False),
    ],
    output: Annotated[
        Path | None,
        opt.option(
            "The folder for the builds; build/<name of the file> by default.",
            "--output",
            "-o",
            metavar="DIR",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Builds at a time; half the CPUs by default, and one where latency is measured.",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="dask://HOST:PORT",
            help="Build on the workers of a Dask scheduler. They need deployfold and this "
            "directory; a worker with a resource named as a target gets that target's builds "
            "(dask worker --nthreads 1 --resources l4=1).",
        ),
    ] = None,
    allow_code: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PACKAGE.MODULE:FUNCTION",
            help="Let the fleet file name this function of yours as arch, calib or input-data; "
            "repeat it for several.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the missing builds, and build nothing.")
    ] = False,
) -> None:
    """The command ``deployfold sweep``."""
    from deployfold.errors import SweepError
    from deployfold.sweep.fleet import read_fleet
    from deployfold.sweep.run import planned, refusals
    from deployfold.sweep.run import sweep as run_sweep
    from deployfold.sweep.summary import to_json, to_table

    read = read_fleet(fleet, allow_code or ())
    root = output or Path("build") / fleet.stem
    if dry_run:
        missing = planned(read, root, scheduler)
        for job in missing:
            run.line(" ".join(["deployfold", *job.command]))
        if refused := refusals(missing):
            raise SweepError(
                f"No machine builds {len(refused)} of these engines.", hint=" ".join(refused)
            )
        return
    results = run_sweep(read, root, emit=run.emit, jobs=jobs, scheduler=scheduler)
    if run.json:
        run.out.file.write(to_json(results))
    else:
        run.out.print(to_table(results))
    failed = [result for result in results if result.state == "failed"]
    if failed:
        raise SweepError(
            f"{len(failed)} of {len(results)} could not be built.",
            hint="The table has the reasons; run the same command again to retry.",
        )
