"""Makes a bundle of a build."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deployfold import __version__
from deployfold.errors import BundleError
from deployfold.events import Emit, StageFinished, StageProgress, StageStarted, ignore
from deployfold.finish.reference import REFERENCE_NPZ
from deployfold.util.files import atomic_path, sha256, write_bytes
from deployfold.util.locks import claimed

from .bill import make_bill
from .collect import Build, collect
from .device_files import device_files
from .labels import LABELS_TXT, read_labels
from .manifest import BILL, MANIFEST, PROVENANCE, RUNNER, FileEntry, HowToRun, Manifest
from .provenance import make_provenance
from .scan import Limits, archive_size, file_header, scan
from .signing import check_key, sign, signature_path
from .tar import END, padding
from .zstd import Writer, library

_BLOCK = 1 << 20
SAME_BYTES_NOTE = (
    "The same build directory gives the same bundle, byte for byte, with the same version of "
    "deployfold and zstd. Two builds of one model differ in their times and measurements, and "
    "TensorRT does not promise the same bytes for an INT8 engine built twice."
)


@dataclass(frozen=True)
class _Member:
    """A file of the bundle, and its content: a path to read, or the bytes."""

    entry: FileEntry
    content: Path | bytes

    def blocks(self) -> Iterator[bytes]:
        """The content, in blocks of at most 1 MiB for files."""
        if isinstance(self.content, bytes):
            yield self.content
            return
        with self.content.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block


def create(
    directory: Path,
    output: Path,
    *,
    labels: Path | None = None,
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
        output: the file to write.
        labels: a text file with the name of a class on every line.
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
        manifest, members = _manifest(build, labels, emit)
        with atomic_path(output) as temporary:
            _pack(temporary, manifest, members, emit)
            emit(StageProgress("bundle", "verifying"))
            scan(temporary, limits)
            signature = None if key is None else sign(temporary, key)
    if signature is not None:
        write_bytes(signature_path(output), signature)
    took = time.perf_counter() - start
    emit(StageFinished("bundle", f"{len(members) + 1} files, {_mb(output)}", took))
    return manifest


def _pack(path: Path, manifest: Manifest, members: Sequence[_Member], emit: Emit) -> None:
    content = manifest.to_json()
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


def _write(writer: Writer, manifest: Manifest, member: _Member) -> None:
    entry, digest, size = member.entry, hashlib.sha256(), 0
    writer.write(file_header(manifest, entry.path, entry.size))
    for block in member.blocks():
        size += len(block)
        if size > entry.size:
            break
        digest.update(block)
        writer.write(block)
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise BundleError(f"{entry.path} changed while it was read.", hint="Run it again.")
    writer.write(padding(size))


def _manifest(build: Build, labels: Path | None, emit: Emit) -> tuple[Manifest, list[_Member]]:
    """The manifest, and the members that it lists, sorted by name."""
    members = []
    for name, path in build.files.items():
        emit(StageProgress("bundle", f"reading {name}"))
        members.append(_Member(FileEntry(path=name, size=path.stat().st_size,
                                         sha256=sha256(path)), path))  # fmt: skip
    extra = device_files()
    if labels is not None:
        extra[LABELS_TXT] = "".join(f"{label}\n" for label in read_labels(labels)).encode()
    members += [_member(name, content) for name, content in extra.items()]
    bill = make_bill(build.name, build.report, [member.entry for member in members])
    members.append(_member(BILL, bill))
    provenance = make_provenance(build.report, [member.entry for member in members])
    members.append(_member(PROVENANCE, provenance))
    members.sort(key=lambda member: member.entry.path)
    report = build.report
    manifest = Manifest(
        name=build.name,
        deployfold_version=__version__,
        source=report.source,
        inputs=report.inputs,
        preprocess=build.preprocess,
        labels=None if labels is None else LABELS_TXT,
        reference=REFERENCE_NPZ,
        artifacts=build.artifacts,
        targets=build.targets,
        chosen=report.chosen.file if report.chosen is not None else None,
        versions=dict(sorted(report.environment.packages.items())),
        run=_how_to_run(build),
        bill_of_materials=BILL,
        provenance=PROVENANCE,
        notes=(SAME_BYTES_NOTE,),
        files=tuple(member.entry for member in members),
    )
    return manifest, members


def _member(name: str, content: bytes) -> _Member:
    digest = hashlib.sha256(content).hexdigest()
    return _Member(FileEntry(path=name, size=len(content), sha256=digest), content)


def _how_to_run(build: Build) -> HowToRun:
    images = build.preprocess is not None
    libraries = {one.library for one in build.artifacts if one.library is not None}
    return HowToRun(
        command=f"python {RUNNER} {'picture.jpg' if images else 'inputs.npz'}",
        needs=("numpy", "pillow") if images else ("numpy",),
        runtimes=(*sorted(name.replace("_", "-") for name in libraries), "onnxruntime"),
    )


def _mb(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.2f} MB"
