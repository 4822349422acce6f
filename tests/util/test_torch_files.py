"""torch's files on a disk that is full: an error, where torch's own writers end the process."""

from __future__ import annotations

import errno
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from deployfold.util import torch_files
from deployfold.util.torch_files import save_scripted, torch_file

FULL = Path("/dev/full")  # every write to it says that the disk is full
NET = nn.Linear(300, 300)

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def traced() -> torch.jit.ScriptModule:
    return torch.jit.freeze(torch.jit.trace(NET.eval(), torch.zeros(1, 300)))


def test_written_files_can_be_read(tmp_path):
    path, example = tmp_path / "net.pt", torch.randn(2, 300)
    with torch_file(path) as file:
        torch.save(NET, file)
    torch.testing.assert_close(torch.load(path, weights_only=False)(example), NET(example))
    with torch_file(path) as file:
        torch.export.save(torch.export.export(NET, (example,)), file)
    with path.open("rb") as file:
        torch.testing.assert_close(torch.export.load(file).module()(example), NET(example))
    save_scripted(traced(), path)
    torch.testing.assert_close(torch.jit.load(path)(example), NET(example))


def test_a_zip_archive_is_written_as_torch_2_6_writes_a_program(tmp_path):
    """The writer goes back to fill in the header of each entry."""
    path = tmp_path / "net.pt2"
    with torch_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("first", b"one")
        archive.writestr("second", bytes(100_000))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert (archive.read("first"), archive.read("second")) == (b"one", bytes(100_000))


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process():
    code = f"""
import pathlib, torch
from deployfold.util.torch_files import torch_file
net = torch.nn.Linear(300, 300)
program = torch.export.export(net, (torch.randn(2, 300),))
for save, value in ((torch.save, net), (torch.export.save, program)):
    try:
        with torch_file(pathlib.Path("{FULL}")) as file:
            save(value, file)
    except OSError as error:
        print("said:", error.errno)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"said: {errno.ENOSPC}\n" * 2), done.stderr


def test_scripted_on_a_full_disk_is_an_error():
    with pytest.raises(OSError, match="No space left"):
        save_scripted(traced(), FULL)


def test_large_scripted_is_written_only_where_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_files, "_IN_MEMORY", 4 * 300 * 300)
    path = tmp_path / "net.ts.pt"
    save_scripted(traced(), path)
    assert path.exists(), "its weights are constants, and count as well"
    monkeypatch.setattr(torch_files, "_BESIDE", 1 << 60)
    with pytest.raises(OSError, match="No space left"):
        save_scripted(traced(), path)
