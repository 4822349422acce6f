"""Reads JSON files that deployfold writes with a ``schema_version``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from deployfold.errors import DeployfoldError, UsageError


def parse_versioned(
    content: bytes,
    name: str,
    kind: str,
    versions: Sequence[object],
    failure: type[DeployfoldError] = UsageError,
) -> dict[str, Any]:
    """The JSON object in a file, whose schema this version of deployfold reads.

    Args:
        content: the bytes of the file.
        name: the file's name, for messages.
        kind: the file's kind, for messages, such as ``report``.
        versions: the schema versions that can be read, the current one first.
        failure: the class of the error.

    Raises:
        DeployfoldError: of the class ``failure``; the content is not JSON, or has no
            ``schema_version`` or another one.
    """
    hint = f"Give a {kind} that deployfold wrote."
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise failure(f"{name} is not a deployfold {kind}: it is not JSON.", hint=hint) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version is None:
        raise failure(f"{name} is not a deployfold {kind}: it has no schema_version.", hint=hint)
    if version not in versions:
        raise failure(
            f"{name} has the {kind} schema {version!r}; this deployfold reads {versions[0]!r}.",
            hint="Update deployfold: pip install -U deployfold.",
        )
    found: dict[str, Any] = data
    return found
