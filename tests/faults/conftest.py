"""The commands' inputs, their results without a fault, and the table of the cases that ran."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from cli_runs import make
from fault_commands import BY_NAME, COMMANDS, FLEET, Command, run
from fault_whole import Undisturbed, check_whole, hashes, temporaries

Count = Callable[..., None]


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a fleet file, a build of the model, and a bundle of the build."""
    folder = tmp_path_factory.mktemp("given")
    torch.save(make(), folder / "net.pt")
    (folder / "fleet.toml").write_text(FLEET, encoding="utf-8")
    (folder / "bundled").mkdir()
    for name, out in (("build", "kit"), ("bundle", "bundled")):
        done = run(BY_NAME[name], folder, folder / out)
        assert done.code == 0, done.err
    (folder / "bundled" / "net.tar.zst").rename(folder / "net.tar.zst")
    return folder


@pytest.fixture(scope="session")
def undisturbed(given: Path, tmp_path_factory: pytest.TempPathFactory):
    """The result of each command without a fault."""
    made: dict[str, Undisturbed] = {}

    def of(command: Command) -> Undisturbed:
        if command.name not in made:
            out = tmp_path_factory.mktemp("undisturbed") / "out"
            command.prepare(given, out)
            done = run(command, given, out)
            assert done.error() == "", done.err
            size = sum(path.stat().st_size for path in out.rglob("*"))
            made[command.name] = Undisturbed(hashes(out), size, done.seconds)
            assert temporaries(out) == []
            check_whole(out, made[command.name], fixed=command.fixed)
        return made[command.name]

    return of


@pytest.fixture(params=COMMANDS, ids=lambda command: command.name)
def command(request: pytest.FixtureRequest) -> Command:
    return request.param


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str | None], Path]]:
    """Mounts a small disk with options such as ``size=64k``; again, changes its options.

    ``None`` takes it away, and the next call mounts a new one.
    """
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def mount(options: str | None) -> Path:
        nonlocal mounted
        if options is None:
            subprocess.run(["umount", "--lazy", str(place)], check=mounted, capture_output=True)
            mounted = False
            return place
        if shutil.which("mount") is None:
            pytest.skip("there is no mount here")
        options = f"remount,{options}" if mounted else options
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            assert not mounted, done.stderr
            pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
        mounted = True
        return place

    yield mount
    if mounted:
        mount(None)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """Makes a new directory for a case; none is kept, since there are thousands."""
    with tempfile.TemporaryDirectory(dir=tmp_path, ignore_cleanup_errors=True) as folder:
        yield lambda: Path(tempfile.mkdtemp(dir=folder)) / "out"


@pytest.fixture
def count(record_property) -> Count:
    """``count(command, fault, cases, remark)``: a line of the table at the end."""

    def add(command: str, fault: str, cases: int, remark: str = "") -> None:
        record_property("fault", (command, fault, cases, remark))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many cases were run of each fault, for each command."""
    lines = defaultdict(list)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                for name, value in report.user_properties:
                    if name == "fault":
                        lines[value[1]].append((value[0], value[2], value[3]))
    if lines:
        terminalreporter.section("fault cases")
    for fault, found in sorted(lines.items()):
        total = sum(cases for _, cases, _ in found)
        terminalreporter.write_line(f"{fault}: {total} cases")
        for command, cases, remark in found:
            terminalreporter.write_line(f"  {command:<10}{cases:>4}  {remark}")
