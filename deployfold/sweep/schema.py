"""The JSON schema of a fleet file, made from that of a build profile."""

from __future__ import annotations

from typing import Any

from deployfold.config.schema import profile_schema

from .fleet import DECIDED


def fleet_schema() -> dict[str, Any]:
    """The schema of the TOML file that ``deployfold sweep`` takes."""
    profile = profile_schema()
    settings = {
        key: value
        for key, value in profile["properties"].items()
        if key not in (*DECIDED, "description")
    }
    texts = {"type": "array", "items": {"type": "string"}}
    own = {
        "precisions": {**texts, "description": "Precisions to build, such as fp16 and int8."},
        "targets": {**texts, "description": "GPUs to build for, as --target takes them."},
    }
    model = {
        "name": {"type": "string", "description": "The directory of the model's builds."},
        "source": {"type": "string", "description": "A model, as deployfold build takes it."},
    }
    return {
        "title": "deployfold fleet",
        "type": "object",
        "additionalProperties": False,
        "required": ["model"],
        "properties": {
            **own,
            "jobs": {"type": "integer", "minimum": 1, "description": "Builds at the same time."},
            "memory-gib": {"type": "number", "exclusiveMinimum": 0},
            "build": {
                "type": "object",
                "description": "Keys of a build profile, for every model.",
                "additionalProperties": False,
                "properties": settings,
            },
            "model": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["source"],
                    "properties": {**model, **own, **settings},
                },
            },
        },
        "$defs": profile.get("$defs", {}),
    }
