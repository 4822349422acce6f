"""The content of a bundle, which is the same for the same build."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from bundle_builds import change_row, make_build

from deployfold.bundle.create import create
from deployfold.bundle.scan import scan
from deployfold.bundle.tar import header, read_header
from deployfold.bundle.unpack import unpack
from deployfold.errors import BundleError, UsageError
from deployfold.reporting.report import Status, ThresholdResult


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return make_build(tmp_path / "build")


def test_a_bundle_holds_the_build_and_what_runs_it(build: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("cat\ndog\n\n")
    (build / "net.folded.pt").write_bytes(b"a pickle has no place on a device")
    manifest = create(build, tmp_path / "m.tar.zst", labels=tmp_path / "labels")
    assert scan(tmp_path / "m.tar.zst") == manifest
    out = tmp_path / "device" / "net"
    unpack(tmp_path / "m.tar.zst", out)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {name for name in names if not name.startswith("lib/")} == {
        "manifest.json", "bom.cdx.json", "provenance.json", "run.py", "labels.txt", "net.onnx",
        "reference.npz",
        "net.fp16.sm_89.engine", "net.fp16.sm_89.engine.json", "preprocess.json", "report.json",
    }  # fmt: skip
    read = json.loads((out / "manifest.json").read_text())
    assert {entry["path"] for entry in read["files"]} == names - {"manifest.json"}
    for entry in read["files"]:
        content = (out / entry["path"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (
            entry["size"],
            entry["sha256"],
        )
    assert read["source"]["sha256"] == "ab" * 32
    assert read["targets"] == ["sm_89"]
    assert read["versions"]["torch"] == "2.14.1"
    assert read["run"]["command"] == "python run.py picture.jpg"
    assert read["run"]["runtimes"] == ["tensorrt", "onnxruntime"]
    assert any("INT8" in note for note in read["notes"])
    assert (out / "labels.txt").read_text() == "cat\ndog\n"
    assert out.stat().st_mode & 0o777 == 0o777 & ~_umask()


def test_the_same_build_gives_the_same_bytes(build: Path, tmp_path: Path) -> None:
    create(build, tmp_path / "one.tar.zst")
    copy = tmp_path / "elsewhere" / "copy"
    copy.mkdir(parents=True)
    for path in sorted(build.iterdir(), reverse=True):
        shutil.copyfile(path, copy / path.name)
        os.utime(copy / path.name, (1e9, 1e9))
        (copy / path.name).chmod(0o600)
    create(copy, tmp_path / "two.tar.zst")
    assert (tmp_path / "one.tar.zst").read_bytes() == (tmp_path / "two.tar.zst").read_bytes()
    (copy / "preprocess.json").write_text("{}")
    create(copy, tmp_path / "two.tar.zst")
    assert (tmp_path / "one.tar.zst").read_bytes() != (tmp_path / "two.tar.zst").read_bytes()


def test_tar_and_zstd_unpack_it_too(build: Path, tmp_path: Path) -> None:
    if shutil.which("zstd") is None or shutil.which("tar") is None:
        pytest.skip("needs tar and zstd")
    create(build, tmp_path / "m.tar.zst")
    done = subprocess.run(
        ["tar", "--zstd", "-xf", "m.tar.zst"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "net" / "net.onnx").read_bytes() == (build / "net.onnx").read_bytes()


def test_the_bill_of_materials_is_valid_and_complete(build: Path, tmp_path: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    manifest = create(build, tmp_path / "m.tar.zst")
    unpack(tmp_path / "m.tar.zst", tmp_path / "out")
    text = (tmp_path / "out" / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    hashes = {
        part["name"]: part["hashes"][0]["content"]
        for part in bill["components"]
        if part["type"] == "file"
    }
    assert hashes.pop("net.pt") == "ab" * 32, "the checkpoint"
    assert hashes == {
        entry.path: entry.sha256
        for entry in manifest.files
        if entry.path not in ("bom.cdx.json", "provenance.json")
    }
    packages = {part["purl"] for part in bill["components"] if part["type"] == "library"}
    assert packages == {"pkg:pypi/torch@2.14.1", "pkg:pypi/onnx@1.23.2"}
    assert bill["metadata"]["component"]["type"] == "machine-learning-model"
    assert bill["metadata"]["timestamp"].startswith("2026-11-24T00:00:00")


def test_the_provenance_states_what_made_every_file(build: Path, tmp_path: Path) -> None:
    manifest = create(build, tmp_path / "m.tar.zst")
    unpack(tmp_path / "m.tar.zst", tmp_path / "out")
    statement = json.loads((tmp_path / "out" / str(manifest.provenance)).read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    subjects = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    files = {entry.path: entry.sha256 for entry in manifest.files}
    assert subjects == {name: digest for name, digest in files.items() if name != "provenance.json"}
    made = statement["predicate"]["buildDefinition"]
    assert made["externalParameters"]["source"] == manifest.source.path
    checkpoint, *packages = made["resolvedDependencies"]
    assert checkpoint == {"name": "net.pt", "digest": {"sha256": "ab" * 32}}
    assert {one["uri"] for one in packages} == {"pkg:pypi/torch@2.14.1", "pkg:pypi/onnx@1.23.2"}


def test_a_build_that_failed_or_missed_a_limit_needs_force(tmp_path: Path) -> None:
    failed = make_build(tmp_path / "failed", status=Status(state="failed", stage="compile"))
    limit = ThresholdResult(name="min-speedup", limit=2, value=1, row="folded", passed=False)
    missed = make_build(tmp_path / "missed", thresholds=[limit])
    for build, expected in ((failed, "failed at compile"), (missed, "min-speedup")):
        with pytest.raises(BundleError, match=expected) as caught:
            create(build, tmp_path / "m.tar.zst")
        assert "--force" in str(caught.value.hint)
        assert not (tmp_path / "m.tar.zst").exists()
        create(build, tmp_path / "m.tar.zst", force=True)
        (tmp_path / "m.tar.zst").unlink()


def test_files_that_are_not_those_of_the_report(build: Path, tmp_path: Path) -> None:
    def refused(expected: str) -> None:
        with pytest.raises(BundleError, match=expected):
            create(build, tmp_path / "m.tar.zst")
        assert not (tmp_path / "m.tar.zst").exists()

    engine = build / "net.fp16.sm_89.engine"
    right = engine.read_bytes()
    engine.write_bytes(b"ENGINE" + right[6:])
    refused("not the engine in its sidecar")
    engine.write_bytes(right + b"x")
    refused("changed since the build")
    engine.unlink()
    refused(r"no net\.fp16\.sm_89\.engine, which its report names")
    engine.write_bytes(right)
    (build / "reference.npz").unlink()
    refused(r"no reference\.npz")


def test_weights_beside_the_onnx_go_with_it(build: Path, tmp_path: Path) -> None:
    (build / "net.onnx.data").write_bytes(b"weights")
    change_row(build, "net.onnx", bytes=(build / "net.onnx").stat().st_size + 7)
    manifest = create(build, tmp_path / "m.tar.zst")
    assert "net.onnx.data" in {entry.path for entry in manifest.files}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("n" * 60, "more than 100 bytes"), ("net:b", "not every system can store")],
)
def test_a_name_that_no_bundle_can_hold(
    build: Path, tmp_path: Path, name: str, expected: str
) -> None:
    (build / "net.onnx").rename(build / f"{name}.onnx")
    change_row(build, "net.onnx", artifact=f"{name}.onnx")
    with pytest.raises(BundleError, match=expected) as caught:
        create(build, tmp_path / "m.tar.zst")
    assert "Rename" in str(caught.value.hint)


def test_a_header_holds_sizes_beyond_8_gib() -> None:
    """The POSIX form ends at 8 GiB. RegNet-Y-128GF in fp32 has 2.6 GB; others are larger."""
    for size in (0, 1, 8 << 30, 1 << 40):
        block = header("net/weights", size)
        assert len(block) == 512
        assert read_header(block, "m") == ("net/weights", size)


def test_unpacking_into_what_is_there_is_refused(build: Path, tmp_path: Path) -> None:
    create(build, tmp_path / "m.tar.zst")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("precious")
    with pytest.raises(UsageError, match="not empty"):
        unpack(tmp_path / "m.tar.zst", out)
    assert [path.name for path in out.iterdir()] == ["mine"]
    (out / "mine").unlink()
    unpack(tmp_path / "m.tar.zst", out)
    assert (out / "run.py").is_file()


def test_there_must_be_a_build(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no directory"):
        create(tmp_path / "gone", tmp_path / "m")
    with pytest.raises(UsageError, match="Cannot read"):
        create(tmp_path, tmp_path / "m")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
