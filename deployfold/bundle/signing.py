"""Signs bundles with OpenSSH, and checks the signatures.

The signature is ``FILE.sig``, in the folder of the bundle. ``ssh-keygen -Y verify`` checks it
without deployfold; the section ALLOWED SIGNERS of ssh-keygen(1) describes the file of public keys.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from deployfold.errors import BundleError, UsageError, one_line

NAMESPACE = "deployfold-bundle"
"""The namespace of the signatures. Signatures of other data, such as commits, do not count."""
_SECONDS = 600
"""Time limit of ssh-keygen, which hashes the whole bundle."""


def signature_path(bundle: Path) -> Path:
    """``model.tar.zst.sig`` for ``model.tar.zst``."""
    return bundle.with_name(f"{bundle.name}.sig")


def check_key(key: Path) -> None:
    """Check that the file of a key exists.

    Raises:
        UsageError: the file is missing.
    """
    if not key.is_file():
        raise UsageError(f"There is no key {key}.", hint="ssh-keygen -t ed25519 -f KEY makes one.")


def sign(bundle: Path, key: Path) -> bytes:
    """The signature of a file by a private key, or by the agent with the key of a public one.

    Raises:
        BundleError: ssh-keygen is missing, or refuses, for example because a key is locked.
    """
    done = _ssh_keygen(bundle, "sign", "-f", str(key), "-n", NAMESPACE)
    if done.returncode != 0 or not done.stdout:
        raise BundleError(
            f"{bundle.name} cannot be signed: {one_line(done.stderr.decode(errors='replace'))}.",
            hint="A key with a passphrase must be in the ssh-agent: ssh-add KEY.",
        )
    return done.stdout


def check_signature(bundle: Path, signers: Path) -> str:
    """The name of the allowed signer who signed a bundle.

    Args:
        bundle: the file; its signature is in the same folder.
        signers: a file with lines such as ``release@example.org ssh-ed25519 AAAA…``.

    Raises:
        UsageError: the file of signers is missing.
        BundleError: the signature is missing, belongs to another file, or is from another signer.
    """
    if not signers.is_file():
        raise UsageError(
            f"There is no file {signers}.", hint="Its lines are: NAME ssh-ed25519 AAAA…"
        )
    signature = signature_path(bundle)
    if not signature.is_file():
        raise BundleError(f"{bundle.name} has no signature {signature.name} in its folder.")
    by = ("-s", str(signature), "-f", str(signers))
    found = _ssh_keygen(None, "find-principals", *by)
    names = found.stdout.decode(errors="replace").splitlines()
    if found.returncode != 0 or not names:
        raise BundleError(f"{signers} does not allow the signer of {signature.name}.")
    done = _ssh_keygen(bundle, "verify", *by, "-I", names[0], "-n", NAMESPACE)
    if done.returncode != 0:
        raise BundleError(f"{signature.name} is not a signature of this {bundle.name}.")
    return names[0]


def _ssh_keygen(data: Path | None, action: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run ssh-keygen with a file as its input, and without a terminal for questions."""
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
