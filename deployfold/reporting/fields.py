"""The base class and the number types of every class in a report."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

Number = Annotated[
    float,
    WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": ["Infinity", "-Infinity", "NaN"]}]}),
]
"""A float; JSON has neither infinity nor NaN, so those are written as strings."""
Count = Annotated[int, Field(ge=0)]


def first_problem(error: ValidationError) -> str:
    """The place and the reason of the first error: ``rows.0.bytes: …``."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "the top level"
    return f"{where}: {first['msg']}"


class Frozen(BaseModel):
    """Immutable, read from JSON, keywords or the attributes of another object."""

    # Unknown keys are ignored, so that a field added within a schema version breaks no reader.
    model_config = ConfigDict(
        frozen=True, extra="ignore", from_attributes=True, ser_json_inf_nan="strings"
    )

    def to_json(self) -> str:
        """The JSON text, indented, with a final newline."""
        return self.model_dump_json(indent=2) + "\n"
