"""Detached signatures of a bundle by OpenSSH, which is wherever bundles are made and fetched.

The signature lies beside the bundle, as ``FILE.sig``; ``ssh-keygen -Y verify`` checks it without
deployfold. See the section ALLOWED SIGNERS of ssh-keygen(1).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from deployfold.errors import BundleError, UsageError

NAMESPACE = "deployfold-bundle"
"""Keeps a signature from counting for anything else that the key signs, such as commits."""
_SECONDS = 600


def signature_path(bundle: Path) -> Path:
    """``model.tar.zst.sig`` for ``model.tar.zst``."""
    return bundle.with_name(f"{bundle.name}.sig")


def check_key(key: Path) -> None:
    """Make sure that the file of a key is there.

    Raises:
        UsageError: it is not.
    """
    if not key.is_file():
        raise UsageError(f"There is no key {key}.", hint="ssh-keygen -t ed25519 -f KEY makes one.")


def sign(bundle: Path, key: Path) -> bytes:
    """The signature of a file by a private key, or by the agent that holds the key of a public one.

    Raises:
        UsageError: there is no key.
        BundleError: ssh-keygen is missing or refuses, as without the passphrase of a locked key.
    """
    check_key(key)
    done = _ssh_keygen(bundle, "sign", "-f", str(key), "-n", NAMESPACE)
    if done.returncode != 0 or not done.stdout:
        raise BundleError(
            f"{bundle.name} cannot be signed: {_line(done.stderr)}.",
            hint="A key with a passphrase has to be in the ssh-agent: ssh-add KEY.",
        )
    return done.stdout


def check_signature(bundle: Path, signers: Path) -> str:
    """Who signed a bundle, of those whom the file of allowed signers names.

    Args:
        signers: lines such as ``release@example.org ssh-ed25519 AAAA…``.

    Raises:
        UsageError: there is no such file.
        BundleError: there is no signature, it is of another file, or by none of them.
    """
    if not signers.is_file():
        raise UsageError(
            f"There is no file {signers}.", hint="Its lines are: NAME ssh-ed25519 AAAA…"
        )
    signature = signature_path(bundle)
    if not signature.is_file():
        raise BundleError(f"{bundle.name} has no signature {signature.name} beside it.")
    by = ("-s", str(signature), "-f", str(signers))
    found = _ssh_keygen(None, "find-principals", *by)
    names = found.stdout.decode(errors="replace").splitlines()
    if found.returncode != 0 or not names:
        raise BundleError(f"{signature.name} is by nobody whom {signers} allows.")
    done = _ssh_keygen(bundle, "verify", *by, "-I", names[0], "-n", NAMESPACE)
    if done.returncode != 0:
        raise BundleError(f"{signature.name} does not sign this {bundle.name}.")
    return names[0]


def _ssh_keygen(data: Path | None, action: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run it on a file, without a terminal to ask anything on."""
    environment = {**os.environ, "SSH_ASKPASS_REQUIRE": "never"}
    try:
        with (data or Path(os.devnull)).open("rb") as file:
            return subprocess.run(
                ["ssh-keygen", "-Y", action, *words],
                stdin=file,
                capture_output=True,
                env=environment,
                start_new_session=True,
                timeout=_SECONDS,
                check=False,
            )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(
            "Signatures need ssh-keygen, which is not installed.", hint="It comes with OpenSSH."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise BundleError(f"ssh-keygen did not answer in {_SECONDS} seconds.") from error


def _line(text: bytes) -> str:
    return " ".join(text.decode(errors="replace").split()).rstrip(".")
