"""A cache of lowered models on disk, so that no calibration is done twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import onnx_ir as ir

from deployfold.exporting.storage import data_path, staged

_FORMAT = 1
_FACTS = "facts.json"
_TEMPORARY = ".tmp-"
_BLOCK = 1 << 20
_STALE_SECONDS = 24 * 3600.0
"""Age at which an unfinished entry is left over from a run that was killed."""

ENTRIES = 20
BYTES = 4 << 30
"""Limits of the cache. The least recently used entries go first."""


class _Damaged(Exception):
    """An entry differs from what was stored."""


def default_cache_directory() -> Path | None:
    """``$XDG_CACHE_HOME/deployfold``, or ``~/.cache/deployfold``; ``None`` without a home.

    The XDG base directory specification has relative paths ignored.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given / "deployfold"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / ".cache" / "deployfold" if home.is_dir() else None


def cache_key(parts: Mapping[str, str]) -> str:
    """Hex SHA-256 over everything that decides a result.

    Args:
        parts: such as the model's SHA-256, the digest of the calibration data, the settings, and
            the versions of deployfold and onnxruntime.
    """
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()


class LoweringCache:
    """ONNX files and facts about them, by key; an unusable directory acts as an empty cache.

    Two runs may use one directory at once: entries appear whole by a rename and are never changed.

    Args:
        directory: ``None`` for no cache.
        entries, limit: how many entries and how many bytes are kept at the most.
    """

    def __init__(
        self, directory: Path | None, *, entries: int = ENTRIES, limit: int = BYTES
    ) -> None:
        self._directory = directory
        self._entries = entries
        self._limit = limit

    def get(self, key: str, destination: Path) -> dict[str, Any] | None:
        """Copy the ONNX file of ``key``, and its external data, to ``destination``; its facts.

        ``None`` where there is none, or it is damaged and therefore removed.

        Raises:
            UsageError: ``destination`` cannot be written.
        """
        entry = self._entry(key)
        if entry is None:
            return None
        try:
            facts = self._copy_out(entry, destination)
        except _Damaged:
            shutil.rmtree(entry, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(entry)  # used now, so it goes last
        return facts

    def put(self, key: str, artifact: Path, facts: Mapping[str, Any]) -> None:
        """Keep a copy of the ONNX file ``artifact``, and of its external data.

        What cannot be kept, as on a full disk, is not. ``facts`` must be what JSON can hold.
        """
        entry = self._entry(key)
        if entry is None:
            return
        text = json.dumps(dict(facts))
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=entry.parent))
        except OSError:
            return
        try:
            self._fill(temporary, artifact, text)
            temporary.rename(entry)  # fails where another run was faster
        except (OSError, _Damaged):
            pass
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._prune()

    def _entry(self, key: str) -> Path | None:
        if not re.fullmatch(r"[0-9a-f]{64}", key):
            raise ValueError(f"{key!r} is not a SHA-256")  # it becomes a path
        return None if self._directory is None else self._directory / key

    @staticmethod
    def _fill(directory: Path, artifact: Path, facts: str) -> None:
        digests = {}
        for file in (artifact, data_path(artifact)):
            if file.exists():
                with file.open("rb") as source, (directory / file.name).open("wb") as copy:
                    digests[file.name] = _copy(source, copy)
        record = {
            "format": _FORMAT,
            "name": artifact.name,
            "files": digests,
            "facts": facts,
            "facts_sha256": hashlib.sha256(facts.encode()).hexdigest(),
        }
        (directory / _FACTS).write_text(json.dumps(record), encoding="utf-8")

    @staticmethod
    def _copy_out(entry: Path, destination: Path) -> dict[str, Any]:
        name, digests, facts = _record(entry)
        with staged(destination) as temporary:
            folder = temporary.parent / "entry"
            folder.mkdir()
            for file, digest in digests.items():
                _fetch(entry / file, folder / file, digest)
            copy = folder / name
            if data_path(copy).exists() and name != destination.name:
                # The graph names the file of its data, which has another name here.
                ir.save(ir.load(copy), temporary, external_data=data_path(temporary).name)
            else:
                for file in digests:
                    (folder / file).replace(_renamed(temporary, file, name))
        return facts

    def _prune(self) -> None:
        if self._directory is None:
            return
        try:
            found = [(entry.stat().st_mtime, entry) for entry in self._directory.iterdir()]
        except OSError:
            return
        kept = size = 0
        for modified, entry in sorted(found, reverse=True):
            if entry.name.startswith(_TEMPORARY):
                if modified < time.time() - _STALE_SECONDS:
                    shutil.rmtree(entry, ignore_errors=True)
            elif re.fullmatch(r"[0-9a-f]{64}", entry.name):
                kept, size = kept + 1, size + _size(entry)
                if kept > self._entries or size > self._limit:
                    shutil.rmtree(entry, ignore_errors=True)


def _record(entry: Path) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Name, digests by file, and facts of an entry, all of them checked."""
    try:
        record = json.loads((entry / _FACTS).read_text(encoding="utf-8"))
        name, digests, text = record["name"], record["files"], record["facts"]
        if record["format"] != _FORMAT or name not in digests:
            raise _Damaged
        if not set(digests) <= {name, f"{name}.data"} or Path(name).name != name:
            raise _Damaged
        if hashlib.sha256(text.encode()).hexdigest() != record["facts_sha256"]:
            raise _Damaged
        return name, digests, dict(json.loads(text))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Damaged from error


def _renamed(path: Path, file: str, name: str) -> Path:
    """Where the file of an entry belongs if its ONNX file ``name`` goes to ``path``."""
    return path if file == name else data_path(path)


def _fetch(source: Path, copy: Path, digest: str) -> None:
    try:
        opened = source.open("rb")
    except OSError as error:
        raise _Damaged from error
    with opened, copy.open("wb") as target:
        if _copy(opened, target) != digest:
            raise _Damaged


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy to the end; the hex SHA-256 of what went through."""
    digest = hashlib.sha256()
    for block in _blocks(source):
        digest.update(block)
        target.write(block)
    return digest.hexdigest()


def _blocks(source: IO[bytes]) -> Iterator[bytes]:
    try:
        yield from iter(lambda: source.read(_BLOCK), b"")
    except OSError as error:  # of reading alone; the reader's own come up elsewhere
        raise _Damaged from error


def _size(entry: Path) -> int:
    try:
        return sum(file.stat().st_size for file in entry.iterdir())
    except OSError:
        return 0
