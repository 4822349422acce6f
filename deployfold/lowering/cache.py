"""A cache of lowered models on disk, which saves repeated calibration."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from deployfold.exporting.storage import staged
from deployfold.util.files import sha256
from deployfold.util.onnx_files import data_path, onnx_files

_PACKAGE = Path(__file__).parents[1]
_FORMAT = 1
_FACTS = "facts.json"
_TEMPORARY = ".tmp-"
_STALE_SECONDS = 24 * 3600.0
"""Age at which an unfinished entry counts as left over from a killed run."""

ENTRIES = 20
BYTES = 4 << 30
"""Default limits of the cache in entries and bytes. The least recently used entries go first."""


class _Damaged(Exception):
    """A cache entry differs from the stored content."""


def default_cache_directory() -> Path | None:
    """``$XDG_CACHE_HOME/deployfold``, or ``~/.cache/deployfold``; ``None`` without a home.

    The XDG base directory specification requires programs to ignore a relative path.
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
    """The key of a cache entry: a hex SHA-256 over all that decides the result, by name.

    deployfold's source files count too, because a development install keeps its version.
    """
    whole = {**parts, "program": sha256(*sorted(_PACKAGE.rglob("*.py")))}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


class LoweringCache:
    """Stores ONNX files and facts about them by key; an unusable directory acts as an empty cache.

    Two runs may use one directory at once: a rename publishes each entry whole, and no run changes
    an entry afterwards.

    Args:
        directory: where the entries lie; ``None`` disables the cache.
        entries, limit: the largest number of entries and of bytes.
    """

    def __init__(
        self, directory: Path | None, *, entries: int = ENTRIES, limit: int = BYTES
    ) -> None:
        self._directory = directory
        self._entries = entries
        self._limit = limit

    def get(self, key: str, destination: Path) -> dict[str, Any] | None:
        """Copy the ONNX file of ``key`` with its external data to ``destination``.

        Returns:
            The facts of the entry. ``None`` if there is no entry, or if the entry is damaged; a
            damaged entry is removed.

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
            os.utime(entry)  # marks the entry as recently used
        return facts

    def put(self, key: str, artifact: Path, facts: Mapping[str, Any]) -> None:
        """Store a copy of the ONNX file ``artifact`` and of its external data.

        A failure to write, as on a full disk, leaves the cache without the entry and raises
        nothing.
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
            temporary.rename(entry)  # fails if another run was faster
        except OSError:
            pass
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._prune()

    def _entry(self, key: str) -> Path | None:
        if not re.fullmatch(r"[0-9a-f]{64}", key):
            raise ValueError(f"{key!r} is not a SHA-256")  # the key becomes a path
        return None if self._directory is None else self._directory / key

    @staticmethod
    def _fill(directory: Path, artifact: Path, facts: str) -> None:
        digests = {}
        for file in onnx_files(artifact):
            digests[file.name] = sha256(shutil.copyfile(file, directory / file.name))
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
                # The graph refers to its data file by name, and the name changes here.
                ir.save(ir.load(copy), temporary, external_data=data_path(temporary).name)
            else:
                for file in digests:
                    own = temporary if file == name else data_path(temporary)
                    (folder / file).replace(own)
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
    """Read and check an entry: the ONNX file's name, the digests by file, and the facts."""
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


def _fetch(source: Path, copy: Path, digest: str) -> None:
    try:
        opened = source.open("rb")
    except OSError as error:
        raise _Damaged from error
    with opened, copy.open("wb") as target:
        shutil.copyfileobj(opened, target)
    if sha256(copy) != digest:
        raise _Damaged


def _size(entry: Path) -> int:
    try:
        return sum(file.stat().st_size for file in entry.iterdir())
    except OSError:
        return 0
