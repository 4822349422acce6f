"""The bill of materials of a bundle, in CycloneDX 1.6."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from deployfold.errors import BundleError
from deployfold.reporting.report import Report

from .manifest import FileEntry

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from cyclonedx.output.json import JsonV1Dot6

_NAMESPACE = uuid.UUID("6f2b4c1e-6c7e-5d0a-9a53-0f6f3e1a7b42")
"""Namespace of the serial numbers, so that the same content gives the same number."""


def make_bill(name: str, report: Report, files: Iterable[FileEntry]) -> bytes:
    """List the model, its checkpoint, every file with its hash, and the packages that built it.

    Serial number and time come from the content and the report, so that the same build gives the
    same bytes.

    Returns:
        The JSON text, in UTF-8.

    Raises:
        BundleError: cyclonedx-python-lib is not installed.
    """
    try:
        from cyclonedx.model.bom import Bom, BomMetaData
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError as error:
        raise BundleError(
            "Bundles need cyclonedx-python-lib, which is not installed.",
            hint="Install it with: pip install 'deployfold[bundle]'",
        ) from error
    entries = sorted(files, key=lambda entry: entry.path)
    model = _model(name, report)
    bill = Bom(
        serial_number=_serial(name, report, entries),
        metadata=BomMetaData(
            component=model, timestamp=datetime.fromisoformat(report.created.replace("Z", "+00:00"))
        ),
    )
    parts = [_file(entry.path, entry.sha256) for entry in entries]
    if report.source.sha256 is not None:
        checkpoint = report.source.file_name
        parts.append(_file(checkpoint, report.source.sha256, reference="checkpoint"))
    packages = _packages(report.environment.packages)
    for component in (*parts, *packages):
        bill.components.add(component)
    bill.register_dependency(model, [*parts, *packages])
    return _text(JsonV1Dot6(bill))


def _text(output: JsonV1Dot6) -> bytes:
    text: str = output.output_as_string(indent=2)
    return (text.rstrip("\n") + "\n").encode("utf-8")


def _model(name: str, report: Report) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        name=name,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        version=(report.source.sha256 or "unversioned")[:12],
        bom_ref="model",
    )


def _file(name: str, sha256: str, reference: str | None = None) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        name=name,
        type=ComponentType.FILE,
        bom_ref=reference or f"file:{name}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
    )


def package_url(name: str, version: str) -> str:
    """The package URL of a release on PyPI."""
    return f"pkg:pypi/{name}@{version}"


def _packages(versions: Mapping[str, str]) -> list[Component]:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    return [
        Component(
            name=name,
            version=version,
            type=ComponentType.LIBRARY,
            purl=PackageURL("pypi", None, name, version),
            bom_ref=package_url(name, version),
        )
        for name, version in sorted(versions.items())
    ]


def _serial(name: str, report: Report, entries: list[FileEntry]) -> uuid.UUID:
    lines = [name, report.to_json(), *(f"{entry.path} {entry.sha256}" for entry in entries)]
    return uuid.uuid5(_NAMESPACE, "\n".join(lines))
