"""Writes and reads the headers of a tar archive that holds plain files only.

The reader accepts exactly the headers that the writer makes. So the reader needs no rules for
links, devices, sparse files, extended headers and owners, which all have other headers.
"""

from __future__ import annotations

import tarfile

from deployfold.errors import BundleError

BLOCK = 512
END = bytes(2 * BLOCK)
_MTIME = 315_532_800  # 1980-01-01; tar warns about older files
_KINDS = {
    tarfile.LNKTYPE: "a link",
    tarfile.SYMTYPE: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a directory",
}


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a file, with a fixed time, owner and mode.

    Raises:
        BundleError: the name is too long.
    """
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, _MTIME, 0o644
    # GNU's format stores sizes of 8 GiB and more in binary; the POSIX format cannot.
    block = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")
    if len(block) != BLOCK:
        raise BundleError(f"The name {name} is too long for a bundle.", hint="Rename the model.")
    return block


def padding(size: int) -> bytes:
    """The zeros after a file of ``size`` bytes."""
    return bytes(-size % BLOCK)


def padded(size: int) -> int:
    """Bytes that a file of ``size`` bytes takes in the archive, with its header and padding."""
    return BLOCK + size + -size % BLOCK


def read_header(block: bytes, where: str) -> tuple[str, int] | None:
    """The name and size of the file that follows; ``None`` at the end of the archive.

    The name is not checked.

    Raises:
        BundleError: the entry is not a plain file, or its header is not one of :func:`header`.
    """
    if not any(block):
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{where} is not a deployfold bundle: it does not contain a tar archive."
        ) from error
    if info.type != tarfile.REGTYPE:
        kind = _KINDS.get(info.type, "not a plain file")
        raise BundleError(f"{where}: {info.name!r} is {kind}, but a bundle contains only files.")
    if info.size < 0 or block != header(info.name, info.size):
        raise BundleError(
            f"{where}: {info.name!r} has a header that deployfold does not write.",
            hint="Make the bundle again with deployfold bundle.",
        )
    return info.name, info.size
