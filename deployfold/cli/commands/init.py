"""Inspect a model, and write a commented build profile for it.

Examples:
  deployfold init resnet50.pt
  deployfold init weights.pth --arch timm:efficientnet_b0 -o server.toml
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from deployfold.cli import options as opt
from deployfold.cli.in_session import in_session
from deployfold.cli.session import Session
from deployfold.errors import UsageError


@in_session()
@opt.with_build_options(*opt.MODEL)
def init(
    run: Session,
    model: opt.Source,
    *,
    output: Annotated[
        Path | None,
        opt.option(
            "The file for the profile; the model's name with .toml by default.",
            "--output",
            "-o",
            metavar="FILE",
        ),
    ] = None,
    force: Annotated[bool, opt.option("Replace an existing file.", "--force")] = False,
    **written: Any,
) -> None:
    """The command ``deployfold init``."""
    from deployfold.config.make_spec import spec_of_keywords

    spec = spec_of_keywords(model, written)
    if output is not None:
        _check_free(output, force)

    from deployfold.building.starting_profile import starting_profile
    from deployfold.targets.machine import detect
    from deployfold.util.files import write_text

    made = starting_profile(spec, detect(), None if output is None else str(output))
    path = output or Path(f"{made.name}.toml")
    _check_free(path, force)
    write_text(path, made.text)
    run.out.print(made.summary, markup=False)
    run.line(f"Profile: {path}")
    run.line(f"next: {made.command}")


def _check_free(path: Path, force: bool) -> None:
    """Refuse to replace a file that the user may have edited.

    Raises:
        UsageError: the file exists.
    """
    if path.exists() and not force:
        raise UsageError(
            f"{path} already exists.", hint="Choose another file with -o, or add --force."
        )
