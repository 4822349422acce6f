"""``deployfold finish DIR --on HOST``, over a stand-in for ssh and over a real server."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from finish_kits import make_kit

from deployfold.errors import CompileError, UsageError
from deployfold.finish.remote import finish_on

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
COMMAND = f"{shlex.quote(sys.executable)} -m deployfold"


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    return make_kit(tmp_path / "net")


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ``ssh`` that runs the command in a shell here; the folder for its temporary files."""
    folder = tmp_path / "device"
    folder.mkdir()
    tools = tmp_path / "tools"
    tools.mkdir()
    ssh = tools / "ssh"
    ssh.write_text(
        "#!/bin/sh\n"
        '[ "$4" = user@device ] || { echo "ssh: no such host $4" >&2; exit 255; }\n'
        f'TMPDIR={shlex.quote(str(folder))} exec sh -c "$5"\n'
    )
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    return folder


def check_finished(kit: Path) -> None:
    engines = list(kit.glob("*.engine"))
    assert engines
    assert all(path.with_name(f"{path.name}.json").is_file() for path in engines)
    rows = json.loads((kit / "report.json").read_text())["rows"]
    assert {path.name for path in engines} <= {row["artifact"] for row in rows}


def test_the_engines_and_the_completed_report_come_back(kit: Path, device: Path) -> None:
    report = finish_on("user@device", kit, ["--target=sm_89"], command=COMMAND)
    check_finished(kit)
    assert any("sm_89" in row.name or "sm_89" in row.title for row in report.rows)
    assert list(device.iterdir()) == [], "the copy is removed"


def test_a_failure_on_the_device_is_reported_with_its_own_message(kit: Path, device: Path) -> None:
    before = (kit / "report.json").read_bytes()
    with pytest.raises(UsageError, match=r"On user@device: .*nonsense"):
        finish_on("user@device", kit, ["--target=nonsense"], command=COMMAND)
    with pytest.raises(CompileError, match="failed on user@device") as caught:
        finish_on("user@device", kit, [], command="no-such-deployfold")
    assert "--remote-command" in str(caught.value.hint)
    assert (kit / "report.json").read_bytes() == before
    assert list(device.iterdir()) == []


def test_a_host_that_cannot_be_reached_says_how_to_try(kit: Path, device: Path) -> None:
    with pytest.raises(UsageError, match="other cannot be used: ssh: no such host other") as caught:
        finish_on("other", kit, [])
    assert caught.value.hint == "Try it by hand: ssh -o BatchMode=yes other true"
    with pytest.raises(UsageError, match="expected a host"):
        finish_on("-oProxyCommand=x", kit, [])


def test_a_device_writes_no_other_file(kit: Path, device: Path, tmp_path: Path) -> None:
    """The device chooses contents and not names: no path out of the folder, and no model file."""
    script = tmp_path / "evil"
    script.write_text(
        "#!/bin/sh\n"
        "mkdir -p sub && echo x > sub/a.engine && ln -s /etc/passwd link.engine\n"
        "echo evil > net.fp16.onnx; echo good > real.engine\n"
    )
    script.chmod(0o755)
    onnx = {path.name: path.read_bytes() for path in kit.glob("*.onnx")}
    finish_on("user@device", kit, [], command=str(script))
    assert (kit / "real.engine").read_text() == "good\n"
    assert not (kit / "link.engine").exists()
    assert not (kit / "a.engine").exists()
    assert {path.name: path.read_bytes() for path in kit.glob("*.onnx")} == onnx


def test_names_that_a_device_sends_are_checked_here(kit: Path, device: Path) -> None:
    """A hostile device can choose the contents of the files, but not their places."""
    model = next(kit.glob("*.onnx"))
    content = model.read_bytes()
    archive = device.parent / "hostile.tar"
    with tarfile.open(archive, "w") as file:
        for name in ("../out.engine", "sub/a.engine", model.name, "good.engine"):
            member = tarfile.TarInfo(name)
            member.size = 4
            file.addfile(member, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("link.engine")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    ssh = device.parent / "tools" / "ssh"
    lines = ssh.read_text().splitlines()
    answer = f'case "$5" in *"tar -c"*) exec cat {shlex.quote(str(archive))};; esac'
    ssh.write_text("\n".join([*lines[:-1], answer, lines[-1]]) + "\n")
    with pytest.raises(CompileError, match="did not return a completed report"):
        finish_on("user@device", kit, [], command="true")
    assert (kit / "good.engine").read_bytes() == b"evil"
    assert model.read_bytes() == content
    assert not (kit.parent / "out.engine").exists()
    assert not (kit / "sub").exists()
    assert not (kit / "a.engine").exists()
    assert not (kit / "link.engine").exists()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Path]:
    """A real SSH server on loopback; the configuration of a client that reaches it."""
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True
        )
    shutil.copy(tmp_path / "user.pub", tmp_path / "authorized")
    (tmp_path / "sshd_config").write_text(
        f"Port 22422\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nStrictModes no\n"
        f"AuthorizedKeysFile {tmp_path}/authorized\nPidFile {tmp_path}/pid\nUsePAM no\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", tmp_path / "sshd_config"], stderr=subprocess.DEVNULL
    )
    (tmp_path / "client").write_text(
        f"Host device\n  HostName 127.0.0.1\n  Port 22422\n  IdentityFile {tmp_path}/user\n"
        f"  UserKnownHostsFile {tmp_path}/known\n  StrictHostKeyChecking accept-new\n"
    )
    try:
        for _ in range(50):
            probe = ["ssh", "-F", tmp_path / "client", "-o", "BatchMode=yes", "device", "true"]
            if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        yield tmp_path / "client"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.skipif(not Path(SSHD).is_file(), reason="there is no SSH server here")
@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="sshd of a test needs root")
def test_over_a_real_ssh_server(
    kit: Path, server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    ssh = tools / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {shlex.quote(str(server))} "$@"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    finish_on("device", kit, ["--target=sm_89"], command=COMMAND)
    check_finished(kit)
