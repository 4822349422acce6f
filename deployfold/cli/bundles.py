"""Prints what ``deployfold bundle`` made or checked."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from deployfold.reporting import text

from .session import Session

if TYPE_CHECKING:
    from deployfold.bundle.manifest import Manifest


def show_models(run: Session, path: Path, version: int, models: tuple[str, ...]) -> None:
    """Print the directories of models in a Triton repository, or the same as JSON."""
    if run.json:
        run.write_json({"repository": str(path), "version": version, "models": models})
        return
    for name in models:
        run.line(str(path / name / str(version)))


def show_layout(run: Session, manifest: Manifest, path: Path) -> None:
    """Print the manifest as JSON, or where the layout is and how it gets into a registry."""
    if run.json:
        run.out.file.write(manifest.to_json())
        return
    from deployfold.bundle.oci import TAG

    source = shlex.quote(f"{path}:{TAG}")
    layout = shlex.quote(f"oci:{path}:{TAG}")
    count = len(manifest.files) + 1
    run.line(f"{path}: an OCI image layout, {count} files, {text.size(manifest.size)}")
    run.line(f"next        oras cp --from-oci-layout {source} REGISTRY/{manifest.name}:{TAG}")
    run.line(f"or          skopeo copy {layout} docker://REGISTRY/{manifest.name}:{TAG}")


def _targets(manifest: Manifest) -> str:
    from deployfold.finish.kit import FINISH_JSON

    kit = any(entry.path == FINISH_JSON for entry in manifest.files)
    more = " (deployfold finish builds more on the device)" if kit else ""
    return f"{', '.join(manifest.targets) or 'none'}{more}"


def show(run: Session, manifest: Manifest, path: Path, verb: str) -> None:
    """Print the manifest as JSON, or a summary in a few lines."""
    if run.json:
        run.out.file.write(manifest.to_json())
        return

    source = manifest.source
    digest = f", sha256 {source.sha256[:16]}…" if source.sha256 else ""
    needs = f"{', '.join(manifest.run.needs)} and {' or '.join(manifest.run.runtimes)}"
    command = manifest.run.command
    if path.is_dir():
        command = command.replace("run.py", shlex.quote(str(path / "run.py")))
    lines = [
        ("", f"{path}: {verb}, {len(manifest.files) + 1} files, {text.size(manifest.size)}"),
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
        run.line(f"{name:<12}{value}" if name else value)
