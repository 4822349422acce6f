"""The batch sizes of ``--batch``."""

from __future__ import annotations

from deployfold.errors import UsageError


def read_batches(text: str | None) -> tuple[int, ...]:
    """Read ``1,8,32``; a missing flag gives no batch sizes.

    Raises:
        UsageError: the text is not a list of different positive integers.
    """
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    valid = all(part.isascii() and part.isdigit() and len(part) < 7 for part in parts)
    batches = tuple(int(part) for part in parts) if valid else ()
    if not valid or 0 in batches or len(set(batches)) < len(batches):
        raise UsageError(
            f"--batch {text}: expected different positive integers separated by commas.",
            hint="Write it as --batch 1,8,32.",
        )
    return tuple(sorted(batches))
