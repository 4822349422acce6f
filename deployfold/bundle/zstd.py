"""Compresses and decompresses with Zstandard, by Python 3.14's standard library or its backport."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from deployfold.errors import BundleError
from deployfold.util.files import unreadable

LEVEL = 3
"""The compression level. Higher ones cost minutes per gigabyte for about one percent of weights."""
_BLOCK = 1 << 16
_WINDOW_LOG = 27
"""The largest accepted window of a frame: 2^27 bytes (128 MiB), zstd's own limit. Bundles need
2 MiB."""


def library() -> Any:
    """The module ``compression.zstd`` or ``backports.zstd``.

    Raises:
        BundleError: the module is not installed.
    """
    try:
        name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        return import_module(name)
    except ImportError as error:
        raise BundleError(
            "Bundles need backports.zstd, which is not installed.",
            hint="Install it with: pip install 'deployfold[bundle]'",
        ) from error


class Writer:
    """Compresses data into a file, as one frame whose header has the size of the data."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        zstd = library()
        option = zstd.CompressionParameter
        self._file = file
        self._compressor = zstd.ZstdCompressor(
            options={option.compression_level: LEVEL, option.checksum_flag: 1}
        )
        self._compressor.set_pledged_input_size(size)

    def write(self, data: bytes) -> None:
        """Compress and write ``data``."""
        self._file.write(self._compressor.compress(data))

    def finish(self) -> None:
        """Write the rest of the frame."""
        self._file.write(self._compressor.flush())


class Reader:
    """Decompresses the single frame of a file, at most the requested bytes at a time."""

    def __init__(self, file: IO[bytes], where: str) -> None:
        self._zstd = library()
        option = self._zstd.DecompressionParameter
        self._file = file
        self._where = where
        self._decompressor = self._zstd.ZstdDecompressor(
            options={option.window_log_max: _WINDOW_LOG}
        )

    def blocks(self, size: int) -> Iterator[bytes]:
        """Exactly ``size`` bytes, in pieces of at most 64 KiB.

        Raises:
            BundleError: the frame is damaged, or ends early.
        """
        while size > 0:
            block = self._some(min(size, _BLOCK))
            if not block:
                raise BundleError(f"{self._where} is truncated.", hint="Copy it again.")
            size -= len(block)
            yield block

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        return b"".join(self.blocks(size))

    def finish(self) -> None:
        """Check that the frame and the file end here.

        Raises:
            BundleError: more data follows, or the end of the frame is missing.
        """
        if self._some(1):
            raise BundleError(f"{self._where} has data after its last file.")
        if not self._decompressor.eof:
            raise BundleError(f"{self._where} is truncated.", hint="Copy it again.")
        if self._decompressor.unused_data or self._fresh():
            raise BundleError(f"{self._where} has other data after the bundle.")

    def _fresh(self) -> bytes:
        try:
            return self._file.read(_BLOCK)
        except OSError as error:
            raise unreadable(Path(self._where), error) from error

    def _some(self, size: int) -> bytes:
        """At most ``size`` bytes, and none at the end of the frame or of the file."""
        try:
            while not self._decompressor.eof:
                fresh = b""
                if self._decompressor.needs_input and not (fresh := self._fresh()):
                    break
                block: bytes = self._decompressor.decompress(fresh, size)
                if block:
                    return block
        except self._zstd.ZstdError as error:
            raise BundleError(
                f"{self._where} is damaged, or not a zstd file: {error}.", hint="Copy it again."
            ) from error
        return b""
