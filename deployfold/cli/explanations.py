"""Explains exit codes and messages, with the text of ``docs/troubleshooting.md``.

The page has a section ``## Exit code N: title`` for each code. Each entry of a section begins with
the words of a message: ``**`words`** — what to do``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from deployfold.util.shipped import shipped

LIKENESS = 0.5
"""Least share of an entry's words in a message, if the message lacks them in sequence."""


@dataclass(frozen=True)
class Entry:
    """The words of a message, and what to do."""

    message: str
    advice: str


@dataclass(frozen=True)
class Section:
    """An exit code with its meaning and its messages."""

    code: int
    title: str
    about: str
    entries: tuple[Entry, ...]


def sections() -> list[Section]:
    """Every exit code, in the order of the page.

    Raises:
        DeployfoldError: the installation lacks the page.
    """
    parts = re.split(r"^## Exit code (\d+): (.+)$", _page(), flags=re.MULTILINE)
    return [
        _section(int(code), title, body)
        for code, title, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    ]


def find_code(code: int) -> Section | None:
    """The section of an exit code; ``None`` if there is no such code."""
    return next((one for one in sections() if one.code == code), None)


def find_message(words: str) -> list[tuple[Section, Entry]]:
    """The entries for a message, the most similar first.

    Args:
        words: a printed error, or a part of it.
    """
    asked = _words(words)
    found = []
    for section in sections():
        for entry in section.entries:
            own = _words(entry.message)
            share = len(own & asked) / len(own)
            inside = " ".join(words.lower().split()) in entry.message.lower()
            if entry.message.lower() in words.lower() or (inside and len(asked) > 1):
                share = 2.0
            if share >= LIKENESS:
                found.append((share, section, entry))
    best = max((share for share, _, _ in found), default=0.0)
    return [(section, entry) for share, section, entry in found if share == best]


def _section(code: int, title: str, body: str) -> Section:
    about, *rest = re.split(r"^\*\*`(.+?)`\*\* — ", body, flags=re.MULTILINE)
    entries = zip(rest[0::2], rest[1::2], strict=True)
    return Section(
        code, title, _one_line(about), tuple(Entry(words, _one_line(do)) for words, do in entries)
    )


def _one_line(markdown: str) -> str:
    """A paragraph without its line breaks and its backquotes."""
    return " ".join(markdown.replace("`", "").split())


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def _page() -> str:
    return shipped("troubleshooting.md", "docs/troubleshooting.md").read_text(encoding="utf-8")
