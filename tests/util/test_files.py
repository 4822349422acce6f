"""Files appear complete or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deployfold.errors import ExportError, UsageError
from deployfold.util.files import atomic_path, sha256, temporary_directory, write_bytes, write_text


def _write_half(path, error):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a" / "file.txt"
    write_text(path, "before")
    for error in (RuntimeError, KeyboardInterrupt, ExportError("no")):
        with pytest.raises((RuntimeError, KeyboardInterrupt, ExportError)):
            _write_half(path, error)
        assert path.read_text() == "before"
        assert [item.name for item in path.parent.iterdir()] == ["file.txt"]
    write_text(path, "after")
    assert path.read_text() == "after"


def test_the_temporary_name_keeps_the_suffixes_beside_the_file(tmp_path):
    with atomic_path(tmp_path / "net.ts.pt") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".tmp-")
        assert temporary.name.endswith("net.ts.pt")


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_permissions_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "x", "x")
        with temporary_directory(tmp_path / "folder") as directory:
            mode = directory.stat().st_mode & 0o777
        assert os.umask(mask) == mask, "writing left the umask alone"
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~mask
    assert mode == 0o777 & ~mask


def test_writing_never_sets_the_umask_of_the_process(tmp_path, monkeypatch):
    """A changed umask, however short, would open files of other threads to everyone."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was set"))
    write_text(tmp_path / "x", "x")
    with (
        temporary_directory(tmp_path / "folder"),
        atomic_path(tmp_path / "y", name="inside") as temporary,
    ):
        temporary.write_text("y")
    assert (tmp_path / "y").read_text() == "y"


def test_remains_of_a_killed_run_are_removed_and_files_in_progress_stay(tmp_path):
    path = tmp_path / "net.onnx"
    (tmp_path / ".tmp-abcdefgh-net.onnx").write_text("half")
    (tmp_path / ".tmp-12345678-net.onnx").mkdir()
    (tmp_path / ".tmp-12345678-net.onnx" / "half").write_text("half")
    mine = [".tmp-abcdefgh-other.onnx", ".tmp-mine-net.onnx"]
    for name in mine:
        (tmp_path / name).write_text("of someone else")
    with atomic_path(path) as first, temporary_directory(path) as directory:
        write_text(path, "second")
        names = sorted(item.name for item in tmp_path.iterdir())
        assert names == sorted([*mine, first.name, directory.name, "net.onnx"])
        first.write_text("first")
    assert path.read_text() == "first"
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted([*mine, "net.onnx"])


def test_an_unwritable_place_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Cannot write"):
        write_text(tmp_path / "file" / "below", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="directory"):
        write_text(tmp_path / "folder", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_errors_of_a_writer_on_a_disk_with_space_come_through(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), atomic_path(tmp_path / "x"):
        raise RuntimeError("mine")


@pytest.fixture
def tiny_disk(tmp_path):
    """16 KiB of disk."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting is not permitted here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_full_disk_is_a_usage_error_whoever_writes(tiny_disk: Path):
    with pytest.raises(UsageError, match="No space left on device"):
        write_bytes(tiny_disk / "bytes", bytes(100_000))
    # Its zip writer raises a RuntimeError about a position.
    with (
        pytest.raises(UsageError, match="No space left on device"),
        atomic_path(tiny_disk / "t.pt") as temporary,
    ):
        torch.save(torch.zeros(100_000), temporary)
    assert list(tiny_disk.iterdir()) == []


@given(st.binary(max_size=3000))
def test_sha256(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "hashed"
    write_bytes(path, data)
    assert path.read_bytes() == data
    assert sha256(path) == hashlib.sha256(data).hexdigest()


def test_a_short_write_of_numpy_is_a_full_disk(tmp_path):
    """NumPy's message is «5760 requested and 2568 written». The file no longer exists then."""
    target = tmp_path / "weights.bin"
    with pytest.raises(UsageError, match="No space left on device"), atomic_path(target):
        raise OSError("5760 requested and 2568 written")
