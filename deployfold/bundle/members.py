"""The files of a bundle with their contents, and the manifest that lists them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deployfold import __version__
from deployfold.errors import BundleError
from deployfold.events import Emit, StageProgress
from deployfold.finish.reference import REFERENCE_NPZ
from deployfold.util.files import sha256

from .bill import make_bill
from .collect import Build
from .device_files import cpp_files, device_files
from .labels import LABELS_TXT, read_labels
from .manifest import BILL, PROVENANCE, RUNNER, FileEntry, HowToRun, Manifest
from .provenance import make_provenance

_BLOCK = 1 << 20
SAME_BYTES_NOTE = (
    "The same build directory gives the same bundle, byte for byte, with the same version of "
    "deployfold and zstd. Two builds of one model differ in their times and measurements, and "
    "TensorRT does not promise the same bytes for an INT8 engine built twice."
)


@dataclass(frozen=True)
class Member:
    """A file of the bundle, and its content: a path to read, or the bytes."""

    entry: FileEntry
    content: Path | bytes

    def blocks(self) -> Iterator[bytes]:
        """The content, in blocks of at most 1 MiB for files.

        Raises:
            BundleError: the content is not that of the entry.
        """
        digest, size = hashlib.sha256(), 0
        for block in self._read():
            size += len(block)
            if size > self.entry.size:
                break
            digest.update(block)
            yield block
        if size != self.entry.size or digest.hexdigest() != self.entry.sha256:
            raise BundleError(f"{self.entry.path} changed while it was read.", hint="Run it again.")

    def _read(self) -> Iterator[bytes]:
        if isinstance(self.content, bytes):
            yield self.content
            return
        with self.content.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block


def make_members(
    build: Build, labels: Path | None, *, cpp: bool, emit: Emit
) -> tuple[Manifest, list[Member]]:
    """The manifest, and the members that it lists, sorted by name.

    Args:
        labels: a text file with the name of a class on every line.
        cpp: whether to add the C++ programs.
        emit: receives the progress.
    """
    members = []
    for name, path in build.files.items():
        emit(StageProgress("bundle", f"reading {name}"))
        members.append(Member(FileEntry(path=name, size=path.stat().st_size,
                                         sha256=sha256(path)), path))  # fmt: skip
    extra = device_files() | (cpp_files() if cpp else {})
    if labels is not None:
        extra[LABELS_TXT] = "".join(f"{label}\n" for label in read_labels(labels)).encode()
    members += [member_of(name, content) for name, content in extra.items()]
    bill = make_bill(build.name, build.report, [member.entry for member in members])
    members.append(member_of(BILL, bill))
    provenance = make_provenance(build.report, [member.entry for member in members])
    members.append(member_of(PROVENANCE, provenance))
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


def member_of(name: str, content: bytes) -> Member:
    """A member whose content is in memory."""
    digest = hashlib.sha256(content).hexdigest()
    return Member(FileEntry(path=name, size=len(content), sha256=digest), content)


def _how_to_run(build: Build) -> HowToRun:
    images = build.preprocess is not None
    libraries = {one.library for one in build.artifacts if one.library is not None}
    return HowToRun(
        command=f"python {RUNNER} {'picture.jpg' if images else 'inputs.npz'}",
        needs=("numpy", "pillow") if images else ("numpy",),
        runtimes=(*sorted(name.replace("_", "-") for name in libraries), "onnxruntime"),
    )
