"""Build profiles: TOML files whose values override the defaults and yield to flags.

The keys of a profile are the flags without their dashes::

    description = "FP16 for a server"
    fp16 = true
    target = ["l4"]
    dynamic-batch = "1:8:32"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployfold.errors import UsageError, nearest
from deployfold.util.toml import place_of, read_toml

from .build_options import (
    build_options,
    code_keys,
    path_keys,
    profile_options,
    with_current_keys,
)
from .build_spec import BuildSpec
from .flag_values import is_function
from .make_spec import make_spec
from .profiles_root import profiles_root
from .schema import check_written, first_problem, profile_model

DEFAULT = "default"
"""The origin of a value that neither a profile nor a flag sets."""


@dataclass(frozen=True)
class Merged:
    """The values of all options after a profile and flags have overridden the defaults.

    Attributes:
        values: the value of every option, by key, in the form in which users write it.
        origins: the origin of each value, by key: ``default``, ``profile NAME`` or ``flag``.
    """

    values: Mapping[str, Any]
    origins: Mapping[str, str]
    description: str = ""

    def spec(self, source: str) -> BuildSpec:
        """The specification of a build of the model ``source``.

        Raises:
            UsageError: a value is malformed, or two values contradict each other.
        """
        written = {key: value for key, value in self.values.items() if self.origins[key] != DEFAULT}
        return make_spec(source, written)


def merge(profile: str | None, flags: Mapping[str, Any]) -> Merged:
    """Override the defaults by a profile, and both by flags.

    Args:
        profile: the name of a shipped profile, or the path of a TOML file.
        flags: the flags on the command line, by key (``dynamic-batch``).

    Raises:
        UsageError: the profile does not exist, or has an unknown key or a bad value.
    """
    table = read_profile(profile) if profile else {}
    check_written(flags)
    description = table.pop("description", "")
    defaults = {one.key: one.default for one in build_options()}
    origins = {
        key: "flag" if key in flags else f"profile {profile}" if key in table else DEFAULT
        for key in defaults
    }
    return Merged({**defaults, **table, **flags}, origins, description)


def shipped() -> dict[str, Path]:
    """The build profiles that come with deployfold, by name."""
    found = sorted((profiles_root() / "builds").glob("*.toml"))
    return {path.stem: path for path in found}


def read_profile(name: str) -> dict[str, Any]:
    """The validated keys and values of one build profile.

    Args:
        name: the name of a shipped profile, or the path of a TOML file. Paths in such a file are
            relative to its folder.

    Raises:
        UsageError: the profile does not exist, is not TOML, or has an unknown key or a bad value.
            The message names the line.
    """
    path, known = Path(name), shipped()
    if name in known:
        path = known[name]
    elif not path.is_file():
        near = nearest(name, known)
        shipped_names = f"Shipped: {', '.join(known)}. Or give the path of a TOML file."
        raise UsageError(
            f"There is no build profile {name!r}, and no such file.",
            hint=f"{near} {shipped_names}".strip(),
        )
    table, text = read_toml(path, "build profile")
    table = with_current_keys(table)
    check_table(path, text, table)
    if name not in known:
        for key in path_keys():
            if key in table and table[key] not in ("auto", "random"):
                table[key] = _beside(path, table[key])
    return table


def _beside(profile: Path, value: str) -> str:
    """A path in the folder of a profile, never in the form of a function, which would be run."""
    found = str(profile.parent / value)  # makes evil:f of ./evil:f
    return f"./{found}" if is_function(found) else found


def check_table(path: Path, text: str, table: dict[str, Any]) -> None:
    """Refuse a build profile with an unknown key, a bad value or a value that runs code.

    Args:
        path, text: the TOML file and its content, for the line number in the message.
        table: the parsed content.

    Raises:
        UsageError: names the file, the line, the key and the problem.
    """
    known = profile_keys()
    for key in table:
        if key not in known:
            raise UsageError(
                f"{place_of(path, text, key)}: unknown key {key!r}.",
                hint=nearest(key, known) or "The keys are the flags of build.",
            )
    for key in code_keys():
        if is_function(table.get(key)):
            raise UsageError(
                f"{place_of(path, text, key)}: {key!r} would run code that the profile chose.",
                hint=f"If you trust that code, pass it on the command line: --{key} {table[key]}",
            )
    problem = first_problem(profile_model(), table)
    if problem is not None:
        key, reason = problem
        raise UsageError(f"{place_of(path, text, key)}: {key!r}: {reason}, not {table.get(key)!r}.")


def profile_keys() -> list[str]:
    """Every key that a build profile may hold."""
    return ["description", *(one.key for one in profile_options())]
