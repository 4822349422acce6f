"""Checks that the files of a command under their final names are complete."""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cli_runs import check_usable

from deployfold.bundle.scan import scan
from deployfold.reporting.report import load_report
from deployfold.util.files import sha256

TEMPORARY = (".tmp-", ".work-")


@dataclass(frozen=True)
class Undisturbed:
    """The result of a command without a fault: SHA-256 by file name, bytes, and seconds."""

    files: dict[str, str]
    bytes: int
    seconds: float


def files_of(out: Path) -> dict[str, Path]:
    """Every file below ``out`` that is not temporary, by its name there."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out)
        if path.is_file() and name.name != ".lock" and not is_temporary(name):
            found[str(name)] = path
    return found


def temporaries(out: Path) -> list[str]:
    """The names of what is temporary below ``out``."""
    return [str(path) for path in out.rglob("*") if is_temporary(path.relative_to(out))]


def is_temporary(name: Path) -> bool:
    return any(part.startswith(TEMPORARY) for part in name.parts)


def hashes(out: Path) -> dict[str, str]:
    return {name: sha256(path) for name, path in files_of(out).items()}


def check_whole(out: Path, wanted: Undisturbed, *, fixed: bool) -> None:
    """Check that every file is one that the command makes, and that the file can be used.

    Args:
        fixed: the files must also be the same bytes as those of an undisturbed run.
    """
    found = files_of(out)
    # A failed compile leaves a script to run it again; the next run that succeeds takes it away.
    strange = {name for name in found if not name.endswith(".reproduce.sh")} - set(wanted.files)
    assert not strange, strange
    for name, path in found.items():
        try:
            _check(path)
        except Exception as error:
            raise AssertionError(f"{name} is not whole: {error}") from error
        if fixed:
            assert sha256(path) == wanted.files[name], f"{name} is not what was to be written"
    if fixed:
        _check_directories(set(found), set(wanted.files))
    for record in (path for path in found.values() if path.name == "job.json"):
        place = str(record.parent.relative_to(out))
        assert _below(place, set(found)) == _below(place, set(wanted.files)), place


def _check_directories(found: set[str], wanted: set[str]) -> None:
    """A directory that appears by a rename is there with all its files."""
    for place in {str(Path(name).parent) for name in found} - {"."}:
        assert _below(place, found) == _below(place, wanted), place


def _below(place: str, names: set[str]) -> set[str]:
    return {name for name in names if name.startswith(f"{place}/")}


def _check(path: Path) -> None:
    name = path.name
    if check_usable(path):
        return
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            assert all(arrays[key].size for key in arrays.files)
    elif name == "report.json":
        check_report(path)
    elif path.suffix == ".json":
        assert json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".engine":
        # Without its sidecar an engine counts as unfinished, and nothing loads it.
        sidecar = Path(f"{path}.json")
        if sidecar.exists():
            wanted = json.loads(sidecar.read_text(encoding="utf-8"))["sha256"]
            assert wanted == hashlib.sha256(path.read_bytes()).hexdigest(), "of another sidecar"
    elif name.endswith(".tar.zst"):
        scan(path)
    elif path.suffix in (".svg", ".xml"):
        ElementTree.parse(path)
    elif path.suffix == ".html":
        assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    elif path.suffix == ".py":
        compile(path.read_text(encoding="utf-8"), name, "exec")
    elif path.suffix != ".log":  # the library's own words, written as it says them
        assert path.stat().st_size, "it is empty"


def check_report(path: Path) -> None:
    """Check that a report can be read, and that a complete one has its artifacts, of the right
    size.
    """
    report = load_report(path)
    if report.status.state != "complete":
        return
    bundled = path.with_name("manifest.json").exists()
    for row in report.rows:
        # A bundle leaves out what no device needs; its manifest says what it has.
        if row.artifact is not None and not bundled:
            artifact = path.with_name(row.artifact)
            assert artifact.stat().st_size == row.bytes, row.artifact
            sidecar = Path(f"{artifact}.json")
            assert artifact.suffix != ".engine" or sidecar.exists(), f"{row.artifact} is unfinished"
