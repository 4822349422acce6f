"""Pack a build into one file for devices (deployfold bundle DIR), verify it, unpack it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployfold.cli import options as opt
from deployfold.cli.bundles import show, show_layout, show_models
from deployfold.cli.group import Command, Group
from deployfold.cli.in_session import in_session
from deployfold.cli.session import Session

if TYPE_CHECKING:
    from deployfold.bundle.scan import Limits


class BundleGroup(Group):
    """The group of commands, in which ``bundle DIR`` means ``bundle create DIR``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert ``create`` before words that are neither a command nor a help flag."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["create", *args]
        return super().parse_args(ctx, args)


bundle = typer.Typer(
    name="bundle",
    cls=BundleGroup,
    no_args_is_help=True,
)

TRITON = "Triton"
_SUFFIXES = {"archive": ".tar.zst", "oci": ".oci", "triton": ".triton"}
File = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="A bundle, such as model.tar.zst.", show_default=False),
]
MaxSize = Annotated[
    float,
    typer.Option(min=0.001, metavar="GIB", help="Refuse a bundle that unpacks to more."),
]

Signers = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Require a signature FILE.sig by one of these allowed signers: lines of "
        "NAME ssh-ed25519 AAAA…, as for ssh-keygen.",
    ),
]


@bundle.command("create", cls=Command)
@in_session("json", "verbose")
def create(
    run: Session,
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A directory that deployfold build wrote.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        opt.option(
            "The bundle, layout or repository; DIR.tar.zst, DIR.oci or DIR.triton by default.",
            "--output",
            "-o",
            metavar="FILE",
        ),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="archive|oci|triton",
            help="One file for a device; an OCI image layout for oras or skopeo; or a model "
            "repository for NVIDIA Triton, to which the build is added as the next version.",
        ),
    ] = "archive",
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The names of the classes, one per line."),
    ] = None,
    cpp: Annotated[
        bool,
        typer.Option(
            "--cpp",
            help="Also put in C++ programs with a CMakeLists.txt, for ONNX Runtime, AOTInductor "
            "and TensorRT.",
        ),
    ] = False,
    instances: Annotated[
        int | None,
        opt.option(
            "Instances of each model on every GPU, or on the CPU; 1 by default.",
            panel=TRITON,
            min=1,
        ),
    ] = None,
    max_batch: Annotated[
        int | None,
        opt.option(
            "The greatest batch of ONNX and TorchScript, if the build's batch is dynamic; "
            "by default that of the build.",
            panel=TRITON,
            min=1,
        ),
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(
            metavar="KEY", help="Sign the bundle with an SSH key; the signature is FILE.sig."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Bundle even if the build failed or missed a limit.")
    ] = False,
    max_size: MaxSize = 64,
) -> None:
    """Make a bundle: engines, ONNX, TorchScript, report, and run.py, each file with its SHA-256.

    The same build directory gives the same bytes.

    Examples:

      deployfold bundle build/resnet50 -o model.tar.zst

      deployfold bundle build/resnet50 --labels classes.txt

      deployfold bundle build/resnet50 --format oci -o resnet50.oci

      deployfold bundle build/resnet50 --format triton -o models
    """
    from deployfold.bundle.create import create as make
    from deployfold.errors import UsageError

    if format not in _SUFFIXES:
        raise UsageError(f"{format!r} is not a format.", hint="Use archive, oci or triton.")
    if format != "archive" and sign is not None:
        raise UsageError(
            f"--sign signs an archive, but --format {format} writes a directory.",
            hint="Remove --sign, or sign an archive of the same build.",
        )
    if format == "triton" and cpp:
        raise UsageError("Triton needs no program of its own.", hint="Remove --cpp.")
    if format != "triton" and (instances, max_batch) != (None, None):
        name = "--instances" if instances is not None else "--max-batch"
        raise UsageError(f"{name} needs --format triton.", hint=f"Remove {name}.")
    suffix = _SUFFIXES[format]
    path = output or directory.resolve().with_name(directory.resolve().name + suffix)
    if format == "triton":
        from deployfold.bundle.triton import write_repository

        version, models = write_repository(
            directory,
            path,
            labels=labels,
            instances=instances or 1,
            max_batch=max_batch,
            force=force,
            emit=run.emit,
        )
        show_models(run, path, version, models)
        return
    if format == "oci":
        from deployfold.bundle.oci import write_layout

        manifest = write_layout(directory, path, labels=labels, cpp=cpp, force=force, emit=run.emit)
        show_layout(run, manifest, path)
        return
    manifest = make(
        directory,
        path,
        labels=labels,
        cpp=cpp,
        key=sign,
        force=force,
        limits=_limits(max_size),
        emit=run.emit,
    )
    show(run, manifest, path, "bundled")


@bundle.command("verify", cls=Command)
@in_session("json")
def verify(
    run: Session,
    file: File,
    signers: Signers = None,
    max_size: MaxSize = 64,
) -> None:
    """Check every name, size and hash in a bundle, without unpacking it.

    Examples:

      deployfold bundle verify model.tar.zst
    """
    from deployfold.bundle.scan import scan

    signer = _signer(file, signers)
    show(run, scan(file, _limits(max_size)), file, f"verified{signer}")


@bundle.command("unpack", cls=Command)
@in_session("json")
def unpack(
    run: Session,
    file: File,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Must be new or empty.", show_default=False)
    ],
    signers: Signers = None,
    max_size: MaxSize = 64,
) -> None:
    """Verify a bundle, then unpack it into DIR, completely or not at all.

    Examples:

      deployfold bundle unpack model.tar.zst resnet50
    """
    from deployfold.bundle.unpack import unpack as extract

    signer = _signer(file, signers)
    manifest = extract(file, directory, _limits(max_size))
    show(run, manifest, directory, f"unpacked{signer}")


def _signer(file: Path, signers: Path | None) -> str:
    """``, signed by NAME`` if a signature was required."""
    if signers is None:
        return ""
    from deployfold.bundle.signing import check_signature

    return f", signed by {check_signature(file, signers)}"


def _limits(gib: float) -> Limits:
    from deployfold.bundle.scan import GIB, Limits

    return Limits(total=int(gib * GIB))
