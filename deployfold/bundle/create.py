"""Makes a bundle of a build."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from deployfold.events import Emit, StageFinished, StageProgress, StageStarted, ignore
from deployfold.reporting import text
from deployfold.util.files import atomic_path, write_bytes
from deployfold.util.locks import claimed

from .collect import collect
from .manifest import MANIFEST, Manifest
from .members import Member, make_members
from .scan import Limits, archive_size, file_header, scan
from .signing import check_key, sign, signature_path
from .tar import END, padding
from .zstd import Writer, library


def create(
    directory: Path,
    output: Path,
    *,
    labels: Path | None = None,
    cpp: bool = False,
    key: Path | None = None,
    force: bool = False,
    limits: Limits | None = None,
    emit: Emit = ignore,
) -> Manifest:
    """Write a bundle of a build to ``output``, and read it back with every check.

    The bytes depend on the files of the build alone: names are sorted, and times, owners and modes
    are fixed.

    Args:
        directory: a directory that ``deployfold build`` wrote.
        labels: a text file with the name of a class on every line.
        cpp: add C++ programs that run the artifacts.
        key: an SSH key to sign with; the signature goes to ``FILE.sig``.
        force: accept a build that failed or missed a limit.
        limits: how much the bundle may unpack to.
        emit: receives the progress.

    Raises:
        UsageError: the directory has no build, another run writes it, or a file cannot be read or
            written.
        BundleError: the build is incomplete or missed a limit, or a package is missing.
    """
    library()  # report a missing library before reading the files
    if key is not None:
        check_key(key)
    start = time.perf_counter()
    emit(StageStarted("bundle", f"reading {directory}"))
    with claimed(directory, shared=True):
        build = collect(directory, force=force)
        manifest, members = make_members(build, labels, cpp=cpp, emit=emit)
        with atomic_path(output) as temporary:
            _pack(temporary, manifest, members, emit)
            emit(StageProgress("bundle", "verifying"))
            scan(temporary, limits)
            signature = None if key is None else sign(temporary, key)
    if signature is not None:
        write_bytes(signature_path(output), signature)
    took, size = time.perf_counter() - start, text.size(output.stat().st_size)
    emit(StageFinished("bundle", f"{len(members) + 1} files, {size}", took))
    return manifest


def _pack(path: Path, manifest: Manifest, members: Sequence[Member], emit: Emit) -> None:
    content = manifest.to_json().encode()
    with path.open("wb") as file:
        writer = Writer(file, archive_size(manifest, content))
        writer.write(file_header(manifest, MANIFEST, len(content)))
        writer.write(content + padding(len(content)))
        done = 0
        for member in members:
            name = member.entry.path
            emit(StageProgress("bundle", f"packing {name}", done / max(1, manifest.size)))
            _write(writer, manifest, member)
            done += member.entry.size
        writer.write(END)
        writer.finish()


def _write(writer: Writer, manifest: Manifest, member: Member) -> None:
    writer.write(file_header(manifest, member.entry.path, member.entry.size))
    for block in member.blocks():
        writer.write(block)
    writer.write(padding(member.entry.size))
