"""Writes a model repository for NVIDIA Triton: one model per backend and precision of a build."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Sequence
from pathlib import Path

from deployfold.errors import BundleError
from deployfold.events import Emit, Note, ignore
from deployfold.util.files import make_directory, temporary_directory
from deployfold.util.locks import claimed

from .collect import collect
from .labels import LABELS_TXT, read_labels
from .triton_models import Served, models_of

CONFIG = "config.pbtxt"


def write_repository(
    directory: Path,
    repository: Path,
    *,
    labels: Path | None = None,
    instances: int = 1,
    max_batch: int | None = None,
    force: bool = False,
    emit: Emit = ignore,
) -> tuple[int, tuple[str, ...]]:
    """Add a build to a Triton model repository, as the next version of its models.

    If the latest version is the same build, only its missing parts are added.

    Args:
        directory: a directory that ``deployfold build`` wrote.
        repository: the model repository, which is made if it does not exist.
        labels: a text file with the name of a class on every line.
        instances: instances of each model on every GPU, or on the CPU.
        max_batch: the greatest batch of ONNX and TorchScript, if the build's batch is dynamic. By
            default the greatest one that the build was made for.
        force: accept a build that failed or missed a limit.
        emit: receives notes, such as the models that Triton cannot serve.

    Returns:
        The version, and the names of the models.

    Raises:
        UsageError: the directory has no build, another run uses it or the repository, or the
            repository cannot be written to.
        BundleError: the build is incomplete or missed a limit, or the repository holds models of
            these names with another configuration.
    """
    with claimed(directory, shared=True):
        build = collect(directory, force=force)
        names = read_labels(labels) if labels is not None else None
        models = models_of(build, max_batch, instances, names is not None, emit)
        make_directory(repository)
        with claimed(repository):
            version = _add_all(repository, models, names, emit)
    return version, tuple(model.name for model in models)


def _add_all(
    repository: Path, models: Sequence[Served], labels: list[str] | None, emit: Emit
) -> int:
    versions = [_versions(repository / model.name) for model in models]
    latest = max((max(found, default=0) for found in versions), default=0)
    for model in models:
        path = repository / model.name / CONFIG
        if path.exists() and path.read_text(encoding="utf-8") != model.config:
            raise BundleError(
                f"{path} differs from what this build needs.",
                hint="The inputs, batches or GPUs have changed. Choose another repository, or "
                f"remove {repository / model.name}.",
            )
    missing = [model for model, found in zip(models, versions, strict=True) if latest not in found]
    there = [model for model in models if model not in missing]
    if not latest or not all(_is_version(repository, model, latest) for model in there):
        latest, missing = latest + 1, list(models)
    if not missing:
        emit(Note(f"The repository already has this build, as version {latest}."))
    for model in missing:  # all models, or those that a killed run did not reach
        _add(repository, model, latest, labels)
    return latest


def _versions(model: Path) -> list[int]:
    """The versions of a model: its directories with numbers for names."""
    if not model.is_dir():
        return []
    return [int(path.name) for path in model.iterdir() if path.is_dir() and path.name.isdecimal()]


def _is_version(repository: Path, model: Served, version: int) -> bool:
    folder = repository / model.name / str(version)
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return there == set(model.files) and all(
        filecmp.cmp(folder / name, path, shallow=False) for name, path in model.files.items()
    )


def _add(repository: Path, model: Served, version: int, labels: list[str] | None) -> None:
    """Add a version; a server that polls the repository sees all of it or nothing."""
    home = repository / model.name
    # Beside the repository, since Triton would take a directory in it for a model.
    with temporary_directory(repository) as temporary:
        folder = temporary / str(version)
        folder.mkdir()
        for name, path in model.files.items():
            shutil.copyfile(path, folder / name)
        if home.is_dir():
            folder.rename(home / str(version))
            return
        (temporary / CONFIG).write_text(model.config, encoding="utf-8")
        if labels is not None:
            text = "".join(f"{label}\n" for label in labels)
            (temporary / LABELS_TXT).write_text(text, encoding="utf-8")
        temporary.rename(home)
