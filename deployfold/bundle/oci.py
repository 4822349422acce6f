"""Writes a bundle as an OCI image layout, which ``oras`` and ``skopeo`` push to a registry.

A layout is a directory of blobs, named by their SHA-256, with an index. Each file of the bundle is
a layer of its own, so that a registry stores the files that two releases share once. The format is
that of the OCI image specification 1.1, for artifacts that are not images:
https://github.com/opencontainers/image-spec/blob/v1.1.0/manifest.md#guidelines-for-artifact-usage
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from deployfold.events import Emit, StageFinished, StageProgress, StageStarted, ignore
from deployfold.reporting import text
from deployfold.util.files import check_new, new_directory
from deployfold.util.locks import claimed

from .collect import collect
from .manifest import MANIFEST, Manifest
from .members import Member, make_members, member_of

ARTIFACT_TYPE = "application/vnd.deployfold.bundle.v1"
TAG = "latest"
_FILE_TYPE = "application/octet-stream"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_TITLE = "org.opencontainers.image.title"
"""The annotation by which ``oras pull`` names the file of a layer."""


def write_layout(
    directory: Path,
    output: Path,
    *,
    labels: Path | None = None,
    cpp: bool = False,
    force: bool = False,
    emit: Emit = ignore,
) -> Manifest:
    """Write a bundle of a build as the OCI image layout ``output``, completely or not at all.

    The bytes depend on the files of the build alone.

    Args:
        directory: a directory that ``deployfold build`` wrote.
        output: the directory of the layout; must be new or empty.
        labels: a text file with the name of a class on every line.
        cpp: add C++ programs that run the artifacts.
        force: accept a build that failed or missed a limit.
        emit: receives the progress.

    Raises:
        UsageError: the directory has no build, another run writes it, or the output cannot be
            written or is not empty.
        BundleError: the build is incomplete or missed a limit, or a package is missing.
    """
    check_new(output)
    start = time.perf_counter()
    emit(StageStarted("bundle", f"reading {directory}"))
    with claimed(directory, shared=True):
        build = collect(directory, force=force)
        manifest, members = make_members(build, labels, cpp=cpp, emit=emit)
        members = [member_of(MANIFEST, manifest.to_json().encode()), *members]
        with new_directory(output) as temporary:
            (temporary / "blobs" / "sha256").mkdir(parents=True)
            layers = []
            for member in members:
                emit(StageProgress("bundle", f"packing {member.entry.path}"))
                title = {_TITLE: member.entry.path}
                layers.append(_blob(temporary, member, _FILE_TYPE) | {"annotations": title})
            described = {
                "schemaVersion": 2,
                "mediaType": _MANIFEST_TYPE,
                "artifactType": ARTIFACT_TYPE,
                "config": _blob(temporary, member_of("config", b"{}"), _EMPTY_TYPE),
                "layers": layers,
                "annotations": {
                    _TITLE: manifest.name,
                    "org.opencontainers.image.created": build.report.created,
                },
            }
            found = _blob(temporary, member_of("manifest", _json(described)), _MANIFEST_TYPE)
            found |= {
                "artifactType": ARTIFACT_TYPE,
                "annotations": {"org.opencontainers.image.ref.name": TAG},
            }
            index = {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": [found]}
            (temporary / "index.json").write_bytes(_json(index))
            (temporary / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    took = time.perf_counter() - start
    emit(StageFinished("bundle", f"{len(members)} files, {text.size(manifest.size)}", took))
    return manifest


def _blob(layout: Path, member: Member, media_type: str) -> dict[str, Any]:
    """Write a blob, unless an equal one is there, and return its descriptor."""
    entry = member.entry
    path = layout / "blobs" / "sha256" / entry.sha256
    if not path.exists():
        with path.open("xb") as file:
            for block in member.blocks():
                file.write(block)
    return {"mediaType": media_type, "digest": f"sha256:{entry.sha256}", "size": entry.size}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
