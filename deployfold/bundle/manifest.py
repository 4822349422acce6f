"""``manifest.json``, the first file of a bundle: its files, their origin, and how to run them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Final, Literal

from pydantic import Field, ValidationError, field_validator

from deployfold.errors import BundleError
from deployfold.reporting.conditions import ModelInput, Source
from deployfold.reporting.fields import Count, Frozen, Number, first_problem
from deployfold.runtimes import Runtime, runtime_of
from deployfold.util.versioned_json import parse_versioned

from .names import clash, fault

SCHEMA: Final = 1
MANIFEST = "manifest.json"
BILL = "bom.cdx.json"
PROVENANCE = "provenance.json"
RUNNER = "run.py"


class FileEntry(Frozen):
    """One file: its name, with ``/`` between directories, its size in bytes, and its SHA-256."""

    path: str
    size: Count
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Artifact(Frozen):
    """One way to run the model.

    Attributes:
        row: the name of its row in the report.
        kind: the runtime's word for such files: ``engine``, ``onnx``, ``torchscript``.
        file: the ONNX, the engine or the TorchScript archive.
        files: all files of the artifact: ``file``, external weights and sidecars.
        compute_capabilities, library, library_version: from the sidecar of an engine.
        sqnr_db: SQNR in dB of its outputs against those of the original, if the build compared.
    """

    row: str
    title: str
    kind: str
    precision: str
    file: str
    files: tuple[str, ...]
    compute_capabilities: tuple[str, ...] = ()
    library: str | None = None
    library_version: str | None = None
    sqnr_db: Number | None = None

    @property
    def runtime(self) -> Runtime | None:
        """The runtime that opens its file."""
        return runtime_of(self.file)


class HowToRun(Frozen):
    """The command, its packages, and the runtimes; one of the runtimes is enough."""

    command: str
    needs: tuple[str, ...]
    runtimes: tuple[str, ...]


class Manifest(Frozen):
    """The content of a bundle.

    Attributes:
        name: the name of the model, and of the directory of all files.
        source: the checkpoint of the model, with its SHA-256.
        preprocess: how an image becomes the input.
        labels, reference, bill_of_materials, provenance: names of files; bundles of older versions
            have no provenance.
        targets: the SMs of the engines, such as ``sm_89``.
        versions: the packages that built the model.
        chosen: the file that the build's ``--choose`` named, which ``run.py`` takes before others
            of its runtime.
        files: all files but the manifest itself.
    """

    format: Literal["deployfold bundle"] = "deployfold bundle"
    schema_version: Literal[1] = SCHEMA
    name: str
    deployfold_version: str
    source: Source
    inputs: tuple[ModelInput, ...]
    preprocess: dict[str, Any] | None = None
    labels: str | None = None
    reference: str
    artifacts: tuple[Artifact, ...]
    targets: tuple[str, ...] = ()
    chosen: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    run: HowToRun
    bill_of_materials: str
    provenance: str | None = None
    notes: tuple[str, ...] = ()
    files: tuple[FileEntry, ...]

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if fault(name) is not None or "/" in name:
            raise ValueError("the name of the model cannot be the name of a directory")
        return name

    @field_validator("files")
    @classmethod
    def _plain_files(cls, files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        names = [file.path for file in files]
        for name in names:
            if (wrong := fault(name)) is not None:
                raise ValueError(f"{name!r} {wrong}")
        if (twice := clash([MANIFEST, *names])) is not None:
            raise ValueError(f"{twice!r} is listed twice")
        directories = {str(parent) for name in names for parent in PurePosixPath(name).parents}
        if both := directories & set(names):
            raise ValueError(f"{min(both)!r} is both a file and a directory")
        return files

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(file.size for file in self.files)


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Read a manifest and check every name in it.

    Args:
        content: the bytes of the file.
        where: the name of the bundle, for messages.

    Raises:
        BundleError: the content is not a manifest, or has another schema.
    """
    parse_versioned(content, f"The manifest of {where}", "manifest", (SCHEMA,), BundleError)
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise BundleError(
            f"The manifest of {where} is not valid: {first_problem(error)}."
        ) from error
