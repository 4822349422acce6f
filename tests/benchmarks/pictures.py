"""Make the pictures of the README from a real build: ``make readme-pictures``.

    python tests/benchmarks/pictures.py [checkpoint [build options]]
    python tests/benchmarks/pictures.py --page DIR

``examples/pictures/build.svg`` is an animated recording of ``deployfold build`` in a terminal, made
with tmux (Debian: ``apt-get install tmux``), ``table.svg`` the table of that build, and
``report.png`` the first screen of its page, made with Chromium. ``--page`` draws the page of a
build that is already there, and nothing else. Run it on a quiet machine: the numbers in the
pictures are those of this run.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from PIL import Image
from rich.ansi import AnsiDecoder
from rich.console import Console

from deployfold.util.files import write_text

PICTURES = Path(__file__).parents[2] / "examples" / "pictures"
COLUMNS, LINES = 88, 48
INTERVAL = 0.2
"""Seconds between two looks at the terminal."""
SPEED = 4.0
"""How many times faster than the run the recording plays."""
LAST = 6.0
"""Seconds that the end of the run stays on."""
SCREEN = 1000, 878
"""Width and height of the page's picture in CSS pixels: down to the end of the table."""
FRAMES = 24
"""How many pictures the recording is made of, at most."""


@dataclass(frozen=True)
class Frame:
    """The terminal's content from ``start`` on, in seconds."""

    start: float
    screen: str


def record(command: str, place: Path) -> list[Frame]:
    """Run a command in a new terminal, in ``place``, and capture the screen to its end."""
    with tempfile.TemporaryDirectory() as folder:
        tmux = ["tmux", "-S", f"{folder}/socket", "-f", "/dev/null"]
        size = ["-x", str(COLUMNS), "-y", str(LINES)]
        line = (
            f"printf '$ %s\\n' {shlex.quote(command)}; {command}; touch {folder}/over; sleep 3600"
        )
        subprocess.run([*tmux, "new-session", "-d", *size, "sh", "-c", line], cwd=place, check=True)
        try:
            frames: list[Frame] = []
            start, over = time.monotonic(), False
            while not over:
                over = Path(folder, "over").exists()
                seen = subprocess.run(
                    [*tmux, "capture-pane", "-e", "-p"], check=True, capture_output=True, text=True
                ).stdout.rstrip()
                if not frames or frames[-1].screen != seen:
                    frames.append(Frame(time.monotonic() - start, seen))
                time.sleep(INTERVAL)
            return frames
        finally:
            subprocess.run([*tmux, "kill-server"], check=False)


def thinned(frames: Sequence[Frame]) -> list[Frame]:
    """The frames that show something new for longest, and the last frame."""
    ends = [frame.start for frame in frames[1:]]
    shown = sorted(range(len(ends)), key=lambda index: frames[index].start - ends[index])
    kept = sorted(shown[: FRAMES - 1])
    return [*(frames[index] for index in kept), frames[-1]]


def drawn(screen: str, lines: int, title: str) -> str:
    """One picture of the terminal, as rich draws it, without fonts from the network."""
    console = Console(
        record=True, width=COLUMNS, file=StringIO(), force_terminal=True, legacy_windows=False
    )
    found = screen.split("\n")
    decoder = AnsiDecoder()  # tmux writes a style once, and the next line goes on with it
    for line in [*found, *[""] * (lines - len(found))]:
        console.print(decoder.decode_line(line), no_wrap=True, crop=True)
    svg = console.export_svg(title=title, unique_id="recording")
    return re.sub(r"@font-face\s*{.*?}", "", svg, flags=re.S)


def animated(frames: Sequence[Frame], title: str) -> str:
    """All pictures on top of each other, each visible in its time.

    Who asked for less motion sees the last one.
    """
    lines = max(len(frame.screen.split("\n")) for frame in frames)
    total = frames[-1].start / SPEED + LAST
    starts = [0.0, *(frame.start / SPEED for frame in frames[1:]), total]
    styles = [".f { visibility: hidden } .last { visibility: visible }"]
    rules: dict[str, str] = {}  # the names of the styles of text, which the pictures share
    groups = []
    base = ""
    for index, frame in enumerate(frames):
        begin, end = (100 * starts[index + offset] / total for offset in (0, 1))
        styles.append(
            f"@keyframes k{index} {{ 0% {{ visibility: hidden }} {begin:.2f}% "
            f"{{ visibility: visible }} {end:.2f}% {{ visibility: hidden }} "
            f"100% {{ visibility: hidden }} }}\n"
            f".k{index} {{ animation: k{index} {total:.1f}s step-end infinite }}"
        )
        base = drawn(frame.screen, lines, title)
        found = re.search(
            r'(<rect fill=[^>]*shape-rendering.*?)?<g class="recording-matrix">(.*?)</g>',
            base,
            re.S,
        )
        assert found is not None
        group = (found[1] or "") + found[2]
        for name, rule in re.findall(r"\.(recording-r\d+) { (.*?) }", base):
            group = re.sub(rf'"{name}"', f'"{rules.setdefault(rule, f"c{len(rules)}")}"', group)
        groups.append(f'<g class="f k{index}{" last" if frame is frames[-1] else ""}">{group}</g>')
    styles += [f".{name} {{ {rule} }}" for rule, name in rules.items()]
    styles.append("@media (prefers-reduced-motion) { .f { animation: none } }")
    body = "\n".join(groups)
    base = re.sub(
        r'(<rect fill=[^>]*shape-rendering.*?)?<g class="recording-matrix">.*?</g>',
        lambda _: f'<g class="recording-matrix">{body}</g>',
        base,
        flags=re.S,
    )
    return base.replace("</style>", "\n".join(styles) + "\n</style>", 1)


def draw_page(build: Path) -> None:
    """Draw the first screen of a build's page, in a palette, which is a third of the size."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("Chromium is missing: apt-get install chromium.")
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder) / "report.html", Path(folder) / "report.png"
        subprocess.run(["deployfold", "report", str(build), "-o", str(page)], check=True)
        width, height = SCREEN
        subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                f"--user-data-dir={folder}/profile", "--hide-scrollbars",
                "--blink-settings=preferredColorScheme=1", "--force-device-scale-factor=2",
                f"--window-size={width},{height}", f"--screenshot={shot}", page.as_uri(),
            ],
            check=True, capture_output=True,
        )  # fmt: skip
        with Image.open(shot) as picture:
            picture.convert("RGB").quantize(64).save(PICTURES / "report.png", optimize=True)


def main(words: Sequence[str]) -> None:
    """Record a build, and draw its table and its page."""
    if words[:1] == ["--page"]:
        draw_page(Path(words[1]))
        return
    checkpoint, *options = words or ["resnet50.pt", "--fp16"]
    if shutil.which("tmux") is None:
        raise SystemExit("tmux is missing: apt-get install tmux.")
    source = Path(checkpoint).absolute()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / source.name).symlink_to(source)
        command = shlex.join(["deployfold", "build", source.name, *options])
        frames = thinned(record(command, Path(folder)))
        write_text(PICTURES / "build.svg", animated(frames, command))
        (report,) = Path(folder).glob("build/*/report.json")
        table = ["deployfold", "report", str(report), "--svg", str(PICTURES / "table.svg")]
        subprocess.run([*table, "--width", "112"], check=True)
        draw_page(report.parent)


if __name__ == "__main__":
    main(sys.argv[1:])
