"""``deployfold finish DIR --on HOST``: finishes a build on a device by SSH.

The system's ``ssh`` connects, so keys, ports and jump hosts come from the user's SSH configuration.
``ssh`` runs without questions, so a host with a password is refused.
"""

from __future__ import annotations

import fnmatch
import shlex
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from deployfold.errors import CompileError, DeployfoldError, UsageError
from deployfold.events import Emit, StageFinished, StageProgress, StageStarted, ignore
from deployfold.reporting.report import REPORT_JSON, REPORT_MARKDOWN, Report, load_report
from deployfold.runtimes import ONNX_RUNTIME, TENSORRT
from deployfold.util.child import pipe
from deployfold.util.files import atomic_path
from deployfold.util.locks import claimed

from .kit import FINISH_JSON, Kit, read_kit
from .reference import REFERENCE_NPZ

STAGE = "finish"
_SSH_FAILED = 255
"""The exit code of failures of ``ssh``; other codes are those of the command on the device."""
_ENGINES = f"*{TENSORRT.suffix}"
_FETCHED = (REPORT_MARKDOWN, _ENGINES, f"{_ENGINES}.json", REPORT_JSON)
"""The files that a finished build adds or changes, with the report at the end."""
_CHUNK = 1 << 20


def finish_on(
    host: str,
    directory: Path,
    arguments: Sequence[str],
    *,
    command: str = "deployfold",
    emit: Emit = ignore,
) -> Report:
    """Copy a kit to a device, finish it there, and fetch the engines and the completed report.

    Only the files that the device needs are copied, into a temporary folder that is removed again.

    Args:
        host: ``user@host``, or a name of the user's SSH configuration.
        directory: the output of ``deployfold build``.
        arguments: the arguments of ``deployfold finish``, without the directory.
        command: the command that starts deployfold on the device, such as
            ``python3 -m deployfold``.
        emit: called with the events of the stage ``finish``.

    Raises:
        UsageError: the kit is missing or damaged, there is no ``ssh`` here, or the host cannot be
            reached.
        DeployfoldError: the command failed on the device, with its message and its exit code.
    """
    if host.startswith("-") or not host.strip():
        raise UsageError(f"--on {host}: expected a host, such as user@jetson.")
    if shutil.which("ssh") is None:
        raise UsageError("ssh is not installed here.", hint="Install OpenSSH.")
    with claimed(directory):
        kit = read_kit(directory)
        start = time.monotonic()
        emit(StageStarted(STAGE, f"on {host}"))
        with _remote_folder(host) as folder:
            emit(StageProgress(STAGE, f"copying the kit to {host}"))
            _send(host, folder, _needed(directory, kit))
            emit(StageProgress(STAGE, f"building on {host}"))
            failure = _run(host, folder, command, arguments, emit)
            emit(StageProgress(STAGE, f"fetching the report from {host}"))
            fetched = _fetch(host, folder, directory)
        if failure is not None:
            raise failure
        if REPORT_JSON not in fetched:
            raise CompileError(f"{host} did not return a completed report.")
        engines = sum(name.endswith(TENSORRT.suffix) for name in fetched)
        emit(StageFinished(STAGE, f"{engines} engines from {host}", time.monotonic() - start))
        return load_report(directory)


def _needed(directory: Path, kit: Kit) -> list[Path]:
    """The files of a build that ``deployfold finish`` reads."""
    files = [directory / FINISH_JSON, directory / REFERENCE_NPZ, kit.report]
    for onnx in kit.onnx.values():
        files += [onnx, *(onnx.with_name(name) for name in ONNX_RUNTIME.beside(onnx))]
    return files


def _ssh(host: str, command: str) -> list[str]:
    return ["ssh", "-o", "BatchMode=yes", "--", host, command]


@contextmanager
def _remote_folder(host: str) -> Iterator[str]:
    done = _call(host, 'mktemp -d "${TMPDIR:-/tmp}/deployfold.XXXXXX"')
    folder = done.strip()
    if not folder.startswith("/"):
        raise UsageError(
            f"{host} did not make a temporary folder: {folder or 'the command printed nothing'}."
        )
    try:
        yield folder
    finally:
        subprocess.run(
            _ssh(host, f"rm -r {shlex.quote(folder)}"),
            stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip


def _call(host: str, command: str) -> str:
    done = subprocess.run(
        _ssh(host, command),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise _refused(host, done.stderr)
    return done.stdout


def _refused(host: str, stderr: str) -> UsageError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    reason = lines[-1].rstrip(".") if lines else "ssh gives no reason"
    return UsageError(
        f"{host} cannot be used: {reason}.",
        hint=f"Try it by hand: ssh -o BatchMode=yes {shlex.quote(host)} true",
    )


def _send(host: str, folder: str, files: Sequence[Path]) -> None:
    process = subprocess.Popen(
        _ssh(host, f"tar -x -C {shlex.quote(folder)}"),
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    broken = False
    try:
        with tarfile.open(fileobj=pipe(process.stdin), mode="w|") as archive:
            for path in files:
                archive.add(path, arcname=path.name, recursive=False)
    except BrokenPipeError:
        broken = True
    _, stderr = process.communicate()
    if broken or process.returncode != 0:
        raise _refused(host, stderr.decode(errors="replace"))


def _run(
    host: str, folder: str, command: str, arguments: Sequence[str], emit: Emit
) -> DeployfoldError | None:
    """Run ``deployfold finish`` on the device, and return its failure as an error."""
    words = f"cd {shlex.quote(folder)} && {command} finish . {shlex.join(arguments)}"
    process = subprocess.Popen(
        _ssh(host, words),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, errors="replace",
    )  # fmt: skip
    lines = []
    try:
        for line in pipe(process.stderr):
            if line.strip():
                lines.append(line.strip())
                emit(StageProgress(STAGE, f"{host}: {line.strip()}"))
        code = process.wait()
    finally:
        process.kill()  # has an effect only after an interrupt
    if code == 0:
        return None
    if code == _SSH_FAILED:
        return _refused(host, "\n".join(lines[-1:]))
    at = max((i for i, line in enumerate(lines) if line.startswith("Error: ")), default=None)
    if at is None:
        reason = lines[-1].rstrip(".") if lines else f"exit code {code}"
        return CompileError(
            f"{command} failed on {host}: {reason}.",
            hint="Install deployfold there, or set its command with --remote-command.",
        )
    message = lines[at].removeprefix("Error: ")
    kinds = {int(kind.exit_code): kind for kind in DeployfoldError.__subclasses__()}
    kind = kinds.get(code, CompileError)
    return kind(f"On {host}: {message}", hint=" ".join(lines[at + 1 :]) or None)


def _fetch(host: str, folder: str, directory: Path) -> list[str]:
    """Write the device's files into the build's directory, and return their names.

    The names are checked, because the device must not decide where files go.
    """
    process = subprocess.Popen(
        _ssh(host, f"cd {shlex.quote(folder)} && tar -c -- $(ls -d {' '.join(_FETCHED)})"),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    fetched = []
    try:
        with pipe(process.stdout) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                known = any(fnmatch.fnmatchcase(member.name, one) for one in _FETCHED)
                content = archive.extractfile(member) if member.isfile() else None
                if content is None or not known or Path(member.name).name != member.name:
                    continue
                with atomic_path(directory / member.name) as temporary:
                    _copy(content, temporary, member.size)
                fetched.append(member.name)
    except tarfile.TarError as error:
        raise CompileError(f"The files from {host} cannot be read: {error}.") from error
    finally:
        process.wait()
    return fetched


def _copy(content: IO[bytes], path: Path, size: int) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(content, file, _CHUNK)
        if file.tell() != size:
            raise CompileError("The connection ended while a file was fetched.")
