"""A bundle from somewhere else is refused before anything is written."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from backports import zstd
from bundle_builds import entry, make_build, make_manifest, member, pack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis_examples import examples

from deployfold.bundle.create import create
from deployfold.bundle.names import fault
from deployfold.bundle.scan import Limits, scan
from deployfold.bundle.tar import END
from deployfold.bundle.unpack import unpack
from deployfold.errors import BundleError, UsageError

A, B = b"first file", b"second one"
GOOD = make_manifest(entry("a.txt", A), entry("lib/b.txt", B))


def refused(path: Path, *expected: str, limits: Limits | None = None) -> None:
    """Neither verified nor unpacked, with that reason, and nothing is left behind."""
    before = {one: one.read_bytes() for one in path.parent.rglob("*") if one.is_file()}
    with pytest.raises(BundleError) as caught:
        scan(path, limits)
    for words in expected:
        assert words in caught.value.message
    with pytest.raises(BundleError):
        unpack(path, path.parent / "out", limits)
    after = {one: one.read_bytes() for one in path.parent.rglob("*") if one.is_file()}
    assert after == before
    assert not (path.parent / "out").exists()
    assert not [one for one in path.parent.iterdir() if one.is_dir()]


def test_a_valid_bundle_is_accepted(tmp_path: Path) -> None:
    """The archives below differ from this one in one thing each."""
    path = pack(tmp_path / "m", member("net/a.txt", A), member("net/lib/b.txt", B), manifest=GOOD)
    assert scan(path) == GOOD
    unpack(path, tmp_path / "out")
    assert (tmp_path / "out" / "lib" / "b.txt").read_bytes() == B


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../evil", "leads out"),
        ("net/../../evil", "leads out"),
        ("net/lib/..", "leads out"),
        ("/etc/passwd", "absolute"),
        ("C:/evil", "absolute"),
        ("\\evil", "absolute"),
        ("net/..\\evil", "leads out"),
        ("other/a.txt", "outside of net/"),
        ("a.txt", "outside of net/"),
        ("net//a.txt", "not plain"),
        ("net/./a.txt", "not plain"),
        ("net/nul:x", "not every system"),
        ("net/a\nb", "not every system"),
        ("net/extra.txt", "not in its manifest"),
        ("net/manifest.json", "twice"),
    ],
)
def test_a_name_that_should_not_be_there(tmp_path: Path, name: str, expected: str) -> None:
    refused(pack(tmp_path / "m", member(name, A), manifest=GOOD), expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is a link"),
        ({"type": tarfile.LNKTYPE, "linkname": "net/manifest.json"}, "is a link"),
        ({"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, "is a device"),
        ({"type": tarfile.BLKTYPE}, "is a device"),
        ({"type": tarfile.FIFOTYPE}, "is a pipe"),
        ({"type": tarfile.DIRTYPE}, "is a directory"),
        ({"type": tarfile.XHDTYPE}, "not a plain file"),
        ({"type": tarfile.GNUTYPE_LONGNAME}, "not a plain file"),
        ({"type": tarfile.GNUTYPE_SPARSE}, "not a plain file"),
        ({"mode": 0o4755}, "header that deployfold does not write"),
        ({"uid": 1000}, "header that deployfold does not write"),
        ({"uname": "root"}, "header that deployfold does not write"),
        ({"mtime": 0}, "header that deployfold does not write"),
    ],
)
def test_an_entry_other_than_a_plain_file_is_refused(
    tmp_path: Path, changes: dict[str, object], expected: str
) -> None:
    bad = member("net/a.txt", A, **changes)
    refused(pack(tmp_path / "m", bad, member("net/lib/b.txt", B), manifest=GOOD), expected)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ((("net/a.txt", A),), "lacks lib/b.txt"),
        ((("net/a.txt", A), ("net/a.txt", A), ("net/lib/b.txt", B)), "twice"),
        ((("net/a.txt", b"FIRST file"), ("net/lib/b.txt", B)), "not the file"),
        ((("net/a.txt", A + b"!"), ("net/lib/b.txt", B)), "11 bytes and its manifest says 10"),
    ],
)
def test_files_that_are_not_those_of_the_manifest(
    tmp_path: Path, members: tuple[tuple[str, bytes], ...], expected: str
) -> None:
    packed = [member(name, content) for name, content in members]
    refused(pack(tmp_path / "m", *packed, manifest=GOOD), expected)


ONE = make_manifest(entry("a.txt", A))


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        (ONE.model_copy(update={"name": ".."}), "cannot be the name of a directory"),
        (ONE.model_copy(update={"name": "a/b"}), "cannot be the name of a directory"),
        (ONE.model_copy(update={"files": (entry("../a", A),)}), "leads out"),
        (ONE.model_copy(update={"files": (entry("a.txt", A), entry("A.TXT", A))}), "twice"),
        (ONE.model_copy(update={"files": (entry("Manifest.json", A),)}), "twice"),
        (
            ONE.model_copy(update={"files": (entry("a", A), entry("a/b", A))}),
            "both a file and a directory",
        ),
        (ONE.model_copy(update={"schema_version": 2}), "schema 2"),
        (b"[1, 2]", "no schema_version"),
        (b"no json", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"{}", "no schema_version"),
        (b'{"schema_version": 1}', "not valid"),
    ],
)
def test_a_manifest_that_none_of_ours_is(tmp_path: Path, manifest, expected: str) -> None:
    refused(pack(tmp_path / "m", member("net/a.txt", A), manifest=manifest), expected)


def test_data_beside_the_files(tmp_path: Path) -> None:
    files = (member("net/a.txt", A), member("net/lib/b.txt", B))
    padded = bytearray(files[1])
    padded[-1] = 7
    refused(pack(tmp_path / "m", files[0], bytes(padded), manifest=GOOD), "between its files")
    refused(pack(tmp_path / "m", *files, manifest=GOOD, end=END + b"x"), "after its last file")
    refused(pack(tmp_path / "m", *files, manifest=GOOD, end=END + END), "after its last file")
    refused(pack(tmp_path / "m", *files, manifest=GOOD, end=END[:512]), "truncated")
    path = pack(tmp_path / "m", *files, manifest=GOOD)
    whole = path.read_bytes()
    for tail in (b"x", whole, zstd.compress(b"more")):
        path.write_bytes(whole + tail)
        refused(path, "other data after")


def test_unpacking_never_writes_through_a_link_that_appears_meanwhile(tmp_path: Path) -> None:
    """Unpacking never writes through the link, whenever the link appears."""
    path = pack(tmp_path / "m", member("net/a.txt", A), member("net/lib/b.txt", B), manifest=GOOD)
    out, victim = tmp_path / "out", tmp_path / "victim"
    victim.mkdir()
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            with suppress(OSError):
                out.symlink_to(victim, target_is_directory=True)
                out.unlink()

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(100):
            with suppress(UsageError):
                unpack(path, out)
                shutil.rmtree(out)
    finally:
        stop.set()
        thread.join()
    assert not list(victim.iterdir())
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".tmp-")]


def test_other_files_are_refused_as_bundles(tmp_path: Path) -> None:
    path = tmp_path / "m"
    for content in (b"", b"PK\3\4", bytes(2000), zstd.compress(b""), zstd.compress(b"x" * 5000)):
        path.write_bytes(content)
        refused(path)
    refused(pack(path, member("net/a.txt", A)), "its first file is not manifest.json")
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("net/" + "long" * 100)
        archive.addfile(info)
    path.write_bytes(zstd.compress(tar.getvalue()))
    refused(path, "not a plain file")
    with pytest.raises(UsageError, match="Cannot read"):
        scan(tmp_path / "gone")
    with pytest.raises(UsageError, match="Cannot read"):
        scan(tmp_path)


def test_expansion_is_limited_before_a_file_is_decompressed(tmp_path: Path) -> None:
    zeros = bytes(1 << 20)
    manifest = make_manifest(entry("zeros", zeros))
    path = pack(tmp_path / "m", member("net/zeros", zeros), manifest=manifest)
    assert scan(path) == manifest
    refused(path, "limit is", limits=Limits(total=1 << 20))
    refused(path, "times its size", limits=Limits(ratio=200, free=1 << 16))
    # Only the manifest is there: what it promises is already too much.
    huge = make_manifest(entry("zeros", zeros).model_copy(update={"size": 1 << 50}))
    refused(pack(path, manifest=huge), "unpacks to 1048576.0 GiB")


def test_a_bomb_in_place_of_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m"
    bomb = zstd.ZstdCompressor(1)
    start = member("net/manifest.json", b"", size=1 << 34)
    path.write_bytes(bomb.compress(start) + bomb.compress(bytes(1 << 26)) + bomb.flush())
    refused(path, "manifest of 17179869184 bytes")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
def test_memory_does_not_grow_with_the_bundle(tmp_path: Path) -> None:
    size = 200 << 20
    zeros = bytes(size)
    path = pack(tmp_path / "m", member("net/z", zeros), manifest=make_manifest(entry("z", zeros)))
    del zeros
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom deployfold.bundle.scan import scan\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "scan(Path(sys.argv[1]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    kibibytes = int(done.stdout) // (1024 if sys.platform == "darwin" else 1)
    assert kibibytes < 32 << 10


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    create(make_build(folder / "build"), folder / "m.tar.zst")
    return folder / "m.tar.zst"


def test_truncated_anywhere(real: Path, tmp_path: Path) -> None:
    whole = real.read_bytes()
    path = tmp_path / "m"
    for cut in {*range(1, 20), *range(20, len(whole), len(whole) // 40), len(whole)}:
        path.write_bytes(whole[: len(whole) - cut])
        with pytest.raises(BundleError):
            scan(path)
    path.write_bytes(whole)
    scan(path)


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_is_found_or_changes_nothing(real: Path, tmp_path: Path, data) -> None:
    """zstd ignores some bits of a frame's header."""
    whole = bytearray(real.read_bytes())
    where = data.draw(st.integers(0, len(whole) - 1))
    whole[where] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "m"
    path.write_bytes(whole)
    try:
        found = scan(path)
    except BundleError:
        return
    assert where < 32
    assert found == scan(real)


@given(st.text(max_size=20))
def test_a_good_name_stays_inside(name: str) -> None:
    if fault(name) is None:
        root = Path("/root/of/it")
        path = Path(f"{root}/{name}")
        assert path.is_relative_to(root)
        assert path != root
        assert ".." not in path.parts
        assert "\\" not in name
