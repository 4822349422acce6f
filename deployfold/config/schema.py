"""The pydantic model of the options, which checks written values and has their JSON schema.

Import this module where values are checked, not at start-up: importing pydantic takes 0.1 s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from deployfold.errors import UsageError

from .build_options import build_options, profile_options
from .option_field import Option


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


@lru_cache(maxsize=1)
def written_model() -> type[BaseModel]:
    """A model of every option, with the keys as aliases."""
    return _model("Options", build_options())


@lru_cache(maxsize=1)
def profile_model() -> type[BaseModel]:
    """A model of a build profile: the options that it may set, and its description."""
    about = Field("", description="What the profile is for.")
    return _model("BuildProfile", profile_options(), description=(str, about))


def profile_schema() -> dict[str, Any]:
    """The JSON schema of a build profile."""
    return profile_model().model_json_schema(by_alias=True)


def _model(name: str, options: tuple[Option, ...], **more: Any) -> type[BaseModel]:
    # The prefix avoids clashes between option names and methods of BaseModel.
    fields: dict[str, Any] = {f"option_{one.keyword}": _field(one) for one in options}
    model: type[BaseModel] = create_model(name, __base__=_Written, **more, **fields)
    return model


def _field(one: Option) -> tuple[Any, Any]:
    limits: dict[str, Any] = {"ge": one.least, "le": one.most, "gt": one.above, "lt": one.below}
    limits = {key: bound for key, bound in limits.items() if bound is not None}
    if one.kind is float:
        limits["allow_inf_nan"] = False
    kind = Annotated[one.kind, Field(**limits)] if limits else one.kind
    kind = tuple[kind, ...] if one.many else kind  # type: ignore[valid-type]
    kind = kind | None if one.default is None else kind
    return kind, Field(one.default, alias=one.key, description=one.help)


def check_written(written: Mapping[str, Any]) -> None:
    """Check the types and ranges of written values.

    Raises:
        UsageError: a value has the wrong type or is out of its range.
    """
    problem = first_problem(written_model(), written)
    if problem is not None:
        key, reason = problem
        raise UsageError(f"--{key} {written.get(key)}: {reason}.")


def first_problem(model: type[BaseModel], values: Mapping[str, Any]) -> tuple[str, str] | None:
    """The key of the first value that the model refuses, and the reason in a few words."""
    try:
        model.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = str(first["msg"])
        return str(first["loc"][0]), reason[:1].lower() + reason[1:]
    return None
