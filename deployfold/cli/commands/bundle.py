"""Pack a build into one file for devices (deployfold bundle DIR), verify it, unpack it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployfold.cli.group import Command, Group
from deployfold.cli.in_session import in_session
from deployfold.cli.session import Session
from deployfold.config.option_field import Panel

if TYPE_CHECKING:
    from deployfold.bundle import Limits, Manifest


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
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The bundle or the repository; DIR.tar.zst or DIR.triton by default.",
            rich_help_panel=Panel.OUTPUT,
        ),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="archive|triton",
            help="One file for a device, or a model repository for NVIDIA Triton, to which the "
            "build is added as the next version.",
        ),
    ] = "archive",
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The names of the classes, one per line."),
    ] = None,
    instances: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Instances of each model on every GPU, or on the CPU; 1 by default.",
            rich_help_panel=TRITON,
        ),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The greatest batch of ONNX and TorchScript, if the build's batch is dynamic; "
            "by default that of the build.",
            rich_help_panel=TRITON,
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

      deployfold bundle build/resnet50 --format triton -o models
    """
    from deployfold.bundle import create as make
    from deployfold.errors import UsageError

    if format not in ("archive", "triton"):
        raise UsageError(f"{format!r} is not a format.", hint="Use archive or triton.")
    if format == "triton" and sign is not None:
        raise UsageError(
            "--sign signs an archive, but --format triton writes a directory.",
            hint="Remove --sign, or sign an archive of the same build.",
        )
    if format == "archive" and (instances, max_batch) != (None, None):
        name = "--instances" if instances is not None else "--max-batch"
        raise UsageError(f"{name} needs --format triton.", hint=f"Remove {name}.")
    suffix = ".triton" if format == "triton" else ".tar.zst"
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
        _show_models(run, path, version, models)
        return
    manifest = make(
        directory,
        path,
        labels=labels,
        key=sign,
        force=force,
        limits=_limits(max_size),
        emit=run.emit,
    )
    _show(run, manifest, path, "bundled")


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
    from deployfold.bundle import scan

    signer = _signer(file, signers)
    _show(run, scan(file, _limits(max_size)), file, f"verified{signer}")


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
    from deployfold.bundle import unpack as extract

    signer = _signer(file, signers)
    manifest = extract(file, directory, _limits(max_size))
    _show(run, manifest, directory, f"unpacked{signer}")


def _show_models(run: Any, path: Path, version: int, models: tuple[str, ...]) -> None:
    if run.json:
        found = {"repository": str(path), "version": version, "models": models}
        run.write_json(found)
        return
    from rich.text import Text

    from deployfold.reporting.text import clean

    for name in models:
        run.out.print(Text(clean(f"{path / name / str(version)}")), soft_wrap=True)


def _targets(manifest: Manifest) -> str:
    from deployfold.finish import FINISH_JSON

    kit = any(entry.path == FINISH_JSON for entry in manifest.files)
    more = " (deployfold finish builds more on the device)" if kit else ""
    return f"{', '.join(manifest.targets) or 'none'}{more}"


def _signer(file: Path, signers: Path | None) -> str:
    """``, signed by NAME`` if a signature was required."""
    if signers is None:
        return ""
    from deployfold.bundle.signing import check_signature

    return f", signed by {check_signature(file, signers)}"


def _limits(gib: float) -> Limits:
    from deployfold.bundle import GIB, Limits

    return Limits(total=int(gib * GIB))


def _show(run: Any, manifest: Manifest, path: Path, verb: str) -> None:
    """Print the manifest as JSON, or a summary in a few lines."""
    if run.json:
        run.out.file.write(manifest.to_json().decode("utf-8"))
        return
    from rich.text import Text

    from deployfold.reporting.text import clean

    source = manifest.source
    digest = f", sha256 {source.sha256[:16]}…" if source.sha256 else ""
    needs = f"{', '.join(manifest.run.needs)} and {' or '.join(manifest.run.runtimes)}"
    command = manifest.run.command
    if path.is_dir():
        command = command.replace("run.py", shlex.quote(str(path / "run.py")))
    lines = [
        ("", f"{path}: {verb}, {len(manifest.files) + 1} files, {manifest.size / 1e6:.2f} MB"),
        ("model", f"{manifest.name}, from {source.path}{digest}"),
        ("contains", ", ".join(artifact.file for artifact in manifest.artifacts)),
        ("engines for", _targets(manifest)),
        ("needs", needs),
    ]  # fmt: skip
    if not path.is_dir():
        unpack = shlex.join(["deployfold", "bundle", "unpack", str(path), manifest.name])
        lines.append(("next", f"{unpack}, or tar --zstd -xf"))
    lines.append(("run it", command))
    for name, value in lines:
        run.out.print(Text(f"{name:<12}{clean(value)}" if name else clean(value)), soft_wrap=True)
