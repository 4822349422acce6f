"""Every option of ``deployfold build``: the fields of ``BuildSpec`` and of the groups in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from .build_spec import BuildSpec
from .option_field import Option, Panel, groups_of, options_of
from .precision import Precision


@lru_cache(maxsize=1)
def build_options() -> tuple[Option, ...]:
    """Every option of ``deployfold build``, in the order in which ``--help`` lists them."""
    own = {one.name: one for one in options_of(BuildSpec)}
    groups = groups_of(BuildSpec)
    found: list[Option] = []
    for one in dataclasses.fields(BuildSpec):
        if one.name == "precisions":
            found += [
                Option(
                    one.name,
                    key.value,
                    bool,
                    False,
                    key.record.summary,
                    Panel.TARGET,
                    common=key.record.common,
                )
                for key in Precision
                if key is not Precision.FP32  # an fp32 ONNX is always exported
            ]
        elif one.name in groups:
            found += options_of(groups[one.name], one.name)
        elif one.name in own:
            found.append(own[one.name])
    return tuple(found)


def profile_options() -> tuple[Option, ...]:
    """The options that a build profile may set."""
    return tuple(one for one in build_options() if one.in_profiles)


def path_keys() -> tuple[str, ...]:
    """The keys of a build profile whose value may be a path."""
    return tuple(one.key for one in profile_options() if one.path)


def code_keys() -> tuple[str, ...]:
    """The keys of a build profile whose value may be the user's code."""
    return tuple(one.key for one in profile_options() if one.code)


def with_current_keys(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with every key of an older version renamed to its current key."""
    current = {older: one.key for one in build_options() for older in one.older_keys}
    return {current.get(key, key): value for key, value in table.items()}
