"""The names of a model's classes, one on every line."""

from __future__ import annotations

from pathlib import Path

from deployfold.errors import UsageError

LABELS_TXT = "labels.txt"


def read_labels(path: Path) -> list[str]:
    """Read them; empty lines at the end do not count, one between is a class without a name.

    Raises:
        UsageError: it cannot be read, is no text or names no class.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no UTF-8 text.") from error
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error
    labels = [line.strip() for line in text.splitlines()]
    while labels and not labels[-1]:
        labels.pop()
    if not labels:
        raise UsageError(f"{path} names no class.", hint="Write the name of a class on every line.")
    return labels
