"""The provenance of a bundle: an in-toto statement with SLSA's predicate, version 1.

See https://slsa.dev/spec/v1.0/provenance. The statement is not signed by itself: it lies in the
bundle, whose signature covers it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from deployfold.reporting.report import Report

from .bill import package_url
from .manifest import FileEntry

BUILD_TYPE = "urn:deployfold:build:1"
"""SLSA wants a URI for the kind of build: the parameters are a model and the options of a build."""
BUILDER = "urn:deployfold"


def make_provenance(report: Report, files: Iterable[FileEntry]) -> bytes:
    """State which model, options and packages made the files.

    The same report and files give the same bytes.

    Returns:
        The JSON text, in UTF-8.
    """
    entries = sorted(files, key=lambda entry: entry.path)
    packages = sorted(report.environment.packages.items())
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": one.path, "digest": {"sha256": one.sha256}} for one in entries],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "source": report.source.path,
                    "arch": report.source.arch,
                    "options": report.options,
                },
                "resolvedDependencies": [
                    _checkpoint(report),
                    *({"uri": package_url(name, version)} for name, version in packages),
                ],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"deployfold": report.deployfold_version}},
                "metadata": {"finishedOn": report.created},
            },
        },
    }
    return (json.dumps(statement, indent=2) + "\n").encode()


def _checkpoint(report: Report) -> dict[str, Any]:
    digest = report.source.sha256
    return {"name": report.source.file_name} | (
        {} if digest is None else {"digest": {"sha256": digest}}
    )
