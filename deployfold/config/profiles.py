"""Build profiles: defaults, then a TOML file, then flags.

The keys of a profile are the flags without their dashes::

    description = "FP16 for a server"
    fp16 = true
    target = ["l4"]
    dynamic-batch = "1:8:32"
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployfold.errors import UsageError
from deployfold.util.toml import read_toml

from .build_options import build_options, profile_options, with_current_keys
from .profiles_root import profiles_root
from .schema import check_written, first_problem, profile_model
from .settings import BuildSpec
from .written import make_spec

DEFAULT = "default"
"""The origin of a value that neither a profile nor a flag set."""
PATHS = ("calib", "input-data", "labels", "preprocess", "timing-cache")
"""Keys whose value may be a path; in a file it is relative to that file."""
CODE = ("arch", "calib", "input-data")
"""Keys whose ``package.module:function`` form runs code, which a file must not ask for."""


@dataclass(frozen=True)
class Merged:
    """A profile and the flags over it.

    Attributes:
        values: the value of every option, by key, in the form in which users write it.
        origins: where each came from: ``default``, ``profile NAME`` or ``flag``.
        description: of the profile.
    """

    values: Mapping[str, Any]
    origins: Mapping[str, str]
    description: str = ""

    def spec(self, source: str) -> BuildSpec:
        """What the pipeline does with the model ``source``.

        Raises:
            UsageError: a value cannot be understood, or two contradict each other.
        """
        written = {key: value for key, value in self.values.items() if self.origins[key] != DEFAULT}
        return make_spec(source, written)


def merge(profile: str | None, flags: Mapping[str, Any]) -> Merged:
    """Defaults, overridden by a profile, overridden by flags.

    Args:
        profile: the name of a shipped profile, or the path of a TOML file.
        flags: the flags on the command line, by key (``dynamic-batch``).

    Raises:
        UsageError: the profile does not exist or holds an unknown key or a bad value.
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
        name: of a shipped profile, or the path of a TOML file; relative paths in such a file are
            relative to it.

    Raises:
        UsageError: the profile does not exist, is not TOML, or holds an unknown key or a bad
            value; the message names the line.
    """
    path, known = Path(name), shipped()
    if name in known:
        path = known[name]
    elif not path.is_file():
        near = difflib.get_close_matches(name, known, n=1)
        raise UsageError(
            f"There is no build profile {name!r}, and no such file.",
            hint=(f"Did you mean {near[0]}? " if near else "")
            + f"Shipped: {', '.join(known)}. Or give the path of a TOML file.",
        )
    table, text = read_toml(path, "build profile")
    table = with_current_keys(table)
    check_table(path, text, table)
    if name not in known:
        for key in PATHS:
            if key in table and table[key] not in ("auto", "random"):
                table[key] = str(path.parent / table[key])
    return table


def check_table(path: Path, text: str, table: dict[str, Any]) -> None:
    """Refuse what a build profile may not hold.

    Args:
        path, text: the TOML file and its content, to name the line.

    Raises:
        UsageError: a key is unknown, a value is wrong, or one would run code.
    """
    known = profile_keys()
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise UsageError(
                f"{_place(path, text, key)}: unknown key {key!r}.",
                hint=f"Did you mean {near[0]}?" if near else "The keys are the flags of build.",
            )
    for key in CODE:
        if names_function(table.get(key)):
            raise UsageError(
                f"{_place(path, text, key)}: {key!r} would run code that the profile chose.",
                hint=f"Give it yourself: --{key} {table[key]}",
            )
    problem = first_problem(profile_model(), table)
    if problem is not None:
        key, reason = problem
        raise UsageError(f"{_place(path, text, key)}: {key!r}: {reason}, not {table.get(key)!r}.")


def profile_keys() -> list[str]:
    """Every key that a build profile may hold."""
    return ["description", *(one.key for one in profile_options())]


def names_function(value: object) -> bool:
    """Whether a value has the form ``package.module:function``, so that reading it runs code."""
    if not isinstance(value, str) or value.startswith(("torchvision:", "timm:")):
        return False
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value) is not None


def _place(path: Path, text: str, key: str) -> str:
    pattern = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.\]]|\s*\[+\s*{re.escape(key)}\b")
    for number, line in enumerate(text.splitlines(), start=1):
        if pattern.match(line):
            return f"{path}, line {number}"
    return str(path)
