"""``preprocess.json``: what a build decided on images, for those who run its artifacts later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from deployfold.config.quantization import PREPROCESS_JSON
from deployfold.errors import UsageError
from deployfold.util.files import write_text

from .apply import Preprocess


def write_preprocess(steps: Preprocess, directory: Path) -> Path:
    """Write every step into a build's directory."""
    path = directory / PREPROCESS_JSON
    write_text(path, json.dumps(asdict(steps), indent=2) + "\n")
    return path


def preprocess_from_json(data: Mapping[str, Any]) -> Preprocess:
    """The steps again.

    Raises:
        UsageError: a step is missing, or is none that this version knows.
    """
    try:
        known: dict[str, Any] = {field.name: data[field.name] for field in fields(Preprocess)}
    except KeyError as error:
        raise UsageError(f"The preprocessing lacks {error}.") from error
    lists = {key: tuple(value) for key, value in known.items() if isinstance(value, list)}
    return Preprocess(**known | lists)
