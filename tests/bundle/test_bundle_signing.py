"""Signatures by OpenSSH keys made here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from bundle_builds import make_build

from deployfold.bundle.create import create
from deployfold.bundle.signing import NAMESPACE, check_signature, signature_path
from deployfold.errors import BundleError, UsageError

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")


def make_key(path: Path, passphrase: str = "") -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    key = make_key(tmp_path / "key")
    public = Path(f"{key}.pub").read_text()
    (tmp_path / "signers").write_text(f"other@example.org {make_other(tmp_path)}")
    with (tmp_path / "signers").open("a") as file:
        file.write(f"release@example.org {public}")
    create(make_build(tmp_path / "build"), tmp_path / "m.tar.zst", key=key)
    return tmp_path / "m.tar.zst"


def make_other(folder: Path) -> str:
    return Path(f"{make_key(folder / 'other')}.pub").read_text()


def test_a_signature_says_who_signed(signed: Path) -> None:
    assert check_signature(signed, signed.with_name("signers")) == "release@example.org"
    done = subprocess.run(
        ["ssh-keygen", "-Y", "verify", "-f", "signers", "-I", "release@example.org",
         "-n", NAMESPACE, "-s", "m.tar.zst.sig"],
        cwd=signed.parent, input=signed.read_bytes(), capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, "without deployfold"


def test_another_file_or_signer_or_none_is_refused(signed: Path) -> None:
    signers = signed.with_name("signers")
    right = signed.read_bytes()
    signed.write_bytes(right[:-1] + b"x")
    with pytest.raises(BundleError, match="is not a signature of this"):
        check_signature(signed, signers)
    signed.write_bytes(right)
    first, _, second = signers.read_text().partition("\n")
    signers.write_text(first + "\n")
    with pytest.raises(BundleError, match="does not allow the signer"):
        check_signature(signed, signers)
    signers.write_text(second)
    assert check_signature(signed, signers) == "release@example.org"
    signature_path(signed).unlink()
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-f", "key", "-n", "git", "m.tar.zst"],
        cwd=signed.parent, check=True, capture_output=True,
    )  # fmt: skip
    with pytest.raises(BundleError, match="is not a signature of this"):
        check_signature(signed, signers)  # a signature for something else
    signature_path(signed).unlink()
    with pytest.raises(BundleError, match="no signature"):
        check_signature(signed, signers)
    with pytest.raises(UsageError, match="no file"):
        check_signature(signed, signed.with_name("gone"))


def test_a_key_that_cannot_sign_leaves_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    build = make_build(tmp_path / "build")
    locked = make_key(tmp_path / "locked", "a passphrase")
    with pytest.raises(BundleError, match="cannot be signed") as caught:
        create(build, tmp_path / "m.tar.zst", key=locked)
    assert "ssh-agent" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no key"):
        create(build, tmp_path / "m.tar.zst", key=tmp_path / "gone")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(BundleError, match="ssh-keygen, which is not installed"):
        create(build, tmp_path / "m.tar.zst", key=locked)
    assert not list(tmp_path.glob("m.tar.zst*"))
