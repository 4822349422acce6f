"""Reads a bundle once, from front to back, and checks everything on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from deployfold.errors import BundleError
from deployfold.util.files import unreadable

from .manifest import MANIFEST, FileEntry, Manifest, parse_manifest
from .names import fault
from .tar import BLOCK, END, header, padded, padding, read_header
from .zstd import Reader

GIB = 1 << 30
MANIFEST_BYTES = 16 << 20
"""The largest manifest: an entry takes about 150 bytes."""
RATIO = 200
"""Greatest accepted ratio of unpacked to packed size. Weights compress to nine tenths of their
size, and to a hundredth only if nearly all of them are zero."""

Sink = Callable[[str], AbstractContextManager[IO[bytes]]]
"""Opens a new file for writing, by its name in the bundle."""


@dataclass(frozen=True)
class Limits:
    """The limits of the unpacked size. A larger bundle is refused before it is unpacked.

    Attributes:
        total: bytes of all files.
        ratio: unpacked bytes per byte of the bundle, for bundles that unpack to more than ``free``.
        free: unpacked bytes up to which ``ratio`` does not apply.
    """

    total: int = 64 * GIB
    ratio: int = RATIO
    free: int = GIB


def scan(path: Path, limits: Limits | None = None, sink: Sink | None = None) -> Manifest:
    """Read a bundle to its end, and check names, kinds, sizes, hashes and completeness.

    The manifest is the first file. So every name and size is known, and compared with the limits,
    before the files are decompressed. Memory does not grow with the bundle.

    Args:
        limits: the limits of the unpacked size.
        sink: opens the files for writing; ``None`` to check only. Trust the files only after this
            function has returned.

    Returns:
        The manifest.

    Raises:
        BundleError: the file is not a bundle, is damaged or truncated, or breaks a rule.
        UsageError: the file cannot be read.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from error
    with file:
        return _scan(file, path, limits or Limits(), sink)


def _scan(file: IO[bytes], path: Path, limits: Limits, sink: Sink | None) -> Manifest:
    reader, where = Reader(file, path.name), path.name
    manifest, content = _manifest(reader, where)
    _check_size(manifest, len(content), path, limits)
    if sink is not None:
        with sink(MANIFEST) as out:
            out.write(content)
    wanted = {entry.path: entry for entry in manifest.files}
    while (found := read_header(reader.read(BLOCK), where)) is not None:
        name = _inside(found[0], manifest.name, where)
        entry = wanted.pop(name, None)
        if entry is None:
            twice = name == MANIFEST or any(name == one.path for one in manifest.files)
            why = "is in it twice" if twice else "is not in its manifest"
            raise BundleError(f"{where}: {name!r} {why}.")
        if found[1] != entry.size:
            raise BundleError(
                f"{where}: {name} has {found[1]} bytes and its manifest says {entry.size}."
            )
        _file(reader, entry, where, sink)
    if wanted:
        raise BundleError(f"{where} lacks {min(wanted)}, which its manifest names.")
    if any(reader.read(len(END) - BLOCK)):
        raise BundleError(f"{where} has data after its last file.")
    reader.finish()
    return manifest


def _manifest(reader: Reader, where: str) -> tuple[Manifest, bytes]:
    found = read_header(reader.read(BLOCK), where)
    folder, _, name = found[0].partition("/") if found else ("", "", "")
    if found is None or name != MANIFEST:
        raise BundleError(f"{where} is not a deployfold bundle: its first file is not {MANIFEST}.")
    if found[1] > MANIFEST_BYTES:
        raise BundleError(
            f"{where} has a manifest of {found[1]} bytes, which is too large for one."
        )
    content = reader.read(found[1])
    _pad(reader, found[1], where)
    manifest = parse_manifest(content, where)
    if folder != manifest.name:
        raise BundleError(f"{where}: its manifest lies in {folder!r}, not in {manifest.name!r}.")
    return manifest, content


def _check_size(manifest: Manifest, own: int, path: Path, limits: Limits) -> None:
    total, packed = manifest.size + own, path.stat().st_size
    if total > limits.total:
        raise BundleError(
            f"{path.name} unpacks to {_gib(total)}, but the limit is {_gib(limits.total)}.",
            hint="If you trust its origin, raise the limit with --max-size.",
        )
    if total > max(limits.free, limits.ratio * packed):
        raise BundleError(
            f"{path.name} unpacks to {total // max(1, packed)} times its size, but the limit is "
            f"{limits.ratio} times: weights never compress that much."
        )


def _inside(name: str, folder: str, where: str) -> str:
    """The name below the bundle's own folder."""
    if (wrong := fault(name)) is not None:
        raise BundleError(f"{where}: {name!r} {wrong}.")
    if not name.startswith(f"{folder}/"):
        raise BundleError(f"{where}: {name!r} is outside of {folder}/.")
    return name[len(folder) + 1 :]


def _file(reader: Reader, entry: FileEntry, where: str, sink: Sink | None) -> None:
    digest = hashlib.sha256()
    with sink(entry.path) if sink is not None else nullcontext() as out:
        for block in reader.blocks(entry.size):
            digest.update(block)
            if out is not None:
                out.write(block)
    if digest.hexdigest() != entry.sha256:
        raise BundleError(
            f"{where}: {entry.path} is not the file that its manifest describes.",
            hint="The file was changed or damaged; get the bundle again.",
        )
    _pad(reader, entry.size, where)


def _pad(reader: Reader, size: int, where: str) -> None:
    if any(reader.read(len(padding(size)))):
        raise BundleError(f"{where} has data between its files.")


def archive_size(manifest: Manifest, content: bytes) -> int:
    """Bytes of the tar archive of a manifest, whose text is ``content``, and its files."""
    sizes = [len(content), *(entry.size for entry in manifest.files)]
    return sum(map(padded, sizes)) + len(END)


def file_header(manifest: Manifest, name: str, size: int) -> bytes:
    """The tar header of a file of the bundle."""
    return header(f"{manifest.name}/{name}", size)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
