"""Reads the names of a model's classes from a text file, one on every line."""

from __future__ import annotations

from pathlib import Path

from deployfold.errors import UsageError
from deployfold.util.files import unreadable

LABELS_TXT = "labels.txt"


def read_labels(path: Path) -> list[str]:
    """The names of the classes, in the order of the outputs.

    Empty lines at the end do not count. An empty line between others is a class without a name.

    Raises:
        UsageError: the file cannot be read, is not text, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text.") from error
    except OSError as error:
        raise unreadable(path, error) from error
    labels = [line.strip() for line in text.splitlines()]
    while labels and not labels[-1]:
        labels.pop()
    if not labels:
        raise UsageError(
            f"{path} has no names of classes.", hint="Write the name of a class on every line."
        )
    return labels
