"""``--format oci``: an image layout by the rules of the OCI specification, and its files."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from bundle_builds import make_build

from deployfold.bundle.create import create
from deployfold.bundle.oci import write_layout
from deployfold.bundle.unpack import unpack
from deployfold.errors import UsageError

DESCRIPTOR = {
    "type": "object",
    "required": ["mediaType", "digest", "size"],
    "properties": {
        "mediaType": {
            "pattern": r"^[A-Za-z0-9][\w!#$&^.+-]{0,126}/[A-Za-z0-9][\w!#$&^.+-]{0,126}$"
        },
        "digest": {"pattern": "^sha256:[a-f0-9]{64}$"},
        "size": {"type": "integer", "minimum": 0},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
"""The rules of https://github.com/opencontainers/image-spec/tree/v1.1.0/schema, in one file."""
INDEX = {
    "required": ["schemaVersion", "manifests"],
    "properties": {
        "schemaVersion": {"const": 2},
        "mediaType": {"const": "application/vnd.oci.image.index.v1+json"},
        "manifests": {"type": "array", "items": DESCRIPTOR, "minItems": 1},
    },
}
MANIFEST = {
    # An artifact that is not an image names its type where the config is empty.
    "required": ["schemaVersion", "mediaType", "artifactType", "config", "layers"],
    "properties": {
        "schemaVersion": {"const": 2},
        "mediaType": {"const": "application/vnd.oci.image.manifest.v1+json"},
        "config": DESCRIPTOR,
        "layers": {"type": "array", "items": DESCRIPTOR, "minItems": 1},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def blob(layout: Path, descriptor: dict[str, Any]) -> bytes:
    content = (layout / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()
    assert len(content) == descriptor["size"]
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == descriptor["digest"]
    return content


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_layout_follows_the_specification_and_holds_the_bundle(tmp_path: Path) -> None:
    from jsonschema import validate

    build, layout = make_build(tmp_path / "build"), tmp_path / "net.oci"
    write_layout(build, layout, cpp=True)
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((layout / "index.json").read_text())
    validate(index, INDEX)
    (entry,) = index["manifests"]
    tag = entry["annotations"]["org.opencontainers.image.ref.name"]
    assert re.fullmatch(r"[A-Za-z0-9]+([-._:@/+][A-Za-z0-9]+)*", tag)
    manifest = json.loads(blob(layout, entry))
    validate(manifest, MANIFEST)
    assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert blob(layout, manifest["config"]) == b"{}"
    assert manifest["artifactType"] == entry["artifactType"]

    create(build, tmp_path / "net.tar.zst", cpp=True)
    unpack(tmp_path / "net.tar.zst", tmp_path / "unpacked")
    expected = files(tmp_path / "unpacked")
    found = {
        layer["annotations"]["org.opencontainers.image.title"]: blob(layout, layer)
        for layer in manifest["layers"]
    }
    assert found == expected
    assert {"cpp/CMakeLists.txt", "cpp/run.cpp"} <= set(found)
    blobs = {path.name for path in (layout / "blobs" / "sha256").iterdir()}
    named = [*manifest["layers"], manifest["config"], entry]
    assert blobs == {one["digest"].removeprefix("sha256:") for one in named}


def test_the_same_build_gives_the_same_layout(tmp_path: Path) -> None:
    build = make_build(tmp_path / "build")
    write_layout(build, tmp_path / "one")
    (tmp_path / "two").mkdir()
    write_layout(build, tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_directory_with_files_is_refused(tmp_path: Path) -> None:
    build = make_build(tmp_path / "build")
    (tmp_path / "net.oci").mkdir()
    (tmp_path / "net.oci" / "mine").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        write_layout(build, tmp_path / "net.oci")
    assert set(files(tmp_path / "net.oci")) == {"mine"}
