"""The fleet file: the models to build, in which precisions, and for which targets.

``deployfold sweep --help`` shows an example.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from deployfold.compiling.planning import check_target
from deployfold.config.build_options import code_keys, path_keys, with_current_keys
from deployfold.config.build_profiles import check_table
from deployfold.config.flag_values import is_function, is_zoo_name
from deployfold.config.precision import Precision, parse_precisions
from deployfold.config.real_data import check_calibration
from deployfold.errors import UsageError
from deployfold.targets.catalogue import AUTO
from deployfold.util.toml import read_toml

_TOP = ("build", "model", "precisions", "targets", "jobs", "memory-gib")
_OWN = ("name", "source", "precisions", "targets")
DECIDED = ("target", "no-engine", *(precision.value for precision in Precision))
"""Keys of a build profile that the sweep itself sets."""


@dataclass(frozen=True, eq=False)
class FleetModel:
    """One model of a fleet.

    Attributes:
        name: the name of its directory, which no other model of the fleet has.
        source: a model in the form of ``deployfold build``. The path of a file is absolute.
        settings: keys and values of a build profile. Paths are absolute.
    """

    name: str
    source: str
    settings: dict[str, Any]
    precisions: tuple[Precision, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Fleet:
    """The content of a fleet file.

    Attributes:
        jobs: number of simultaneous builds; ``None`` for half of the CPUs.
        memory_gib: memory limit of all builds together; ``None`` for the free memory.
    """

    models: tuple[FleetModel, ...]
    jobs: int | None = None
    memory_gib: float | None = None

    @property
    def asks_for_auto(self) -> bool:
        """Whether a target is ``auto``, which depends on the machine."""
        return any(AUTO in model.targets for model in self.models)

    @property
    def measures(self) -> bool:
        """Whether a build measures latency. No other build may run at the same time."""
        return not all(model.settings.get("no-measure", False) for model in self.models)


def read_fleet(path: Path, allow_code: Collection[str] = ()) -> Fleet:
    """Read a fleet file; its relative paths are relative to its folder.

    Args:
        allow_code: the functions that the file may name, as ``package.module:function``.

    Raises:
        UsageError: the file cannot be read, or a key or value in it is wrong.
    """
    table, text = read_toml(path, "fleet file", hint="deployfold sweep --help shows an example.")
    _only(path, table, _TOP)
    common = table.get("build", {})
    if not isinstance(common, dict):
        raise UsageError(f"{path}: [build] must be a table.")
    common = with_current_keys(common)
    check = partial(_check_settings, path, text, allow_code)
    check(common, "[build]")
    entries = table.get("model", [])
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{path} does not name a model.", hint='Add [[model]] with source = "…".')
    base = path.parent.resolve()
    models = tuple(_model(path, check, base, entry, common, table) for entry in entries)
    names = [model.name.lower() for model in models]  # some file systems ignore case
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"{path} has two models of the name {twice!r}.", hint='Give one a name = "…".'
        )
    return Fleet(models, _jobs(path, table), _memory(path, table))


def _model(
    path: Path,
    check: Callable[[dict[str, Any], str], None],
    base: Path,
    entry: dict[str, Any],
    common: dict[str, Any],
    table: dict[str, Any],
) -> FleetModel:
    source = entry.get("source") if isinstance(entry, dict) else None
    if not isinstance(source, str) or not source:
        raise UsageError(f'{path}: a [[model]] has no source = "…".')
    own = with_current_keys({key: value for key, value in entry.items() if key not in _OWN})
    check(own, f"the model {source}")
    settings = {**common, **own}
    for key in path_keys():
        value = settings.get(key)
        if value not in (None, "auto", "random") and not is_function(value):
            settings[key] = str(base / value)
    name = entry.get("name", _name_of(source))
    if not isinstance(name, str) or re.fullmatch(r"\w[\w.+-]{0,99}", name) is None:
        raise UsageError(
            f"{path}: {name!r} cannot be the name of a model.",
            hint="Use letters, digits, and the signs . _ + -.",
        )
    if ":" not in source:
        source = str(base / source)
    elif not is_zoo_name(source) and not Path(source).exists():
        raise UsageError(
            f"{path}: the source {source!r} is code, which a fleet file must not run.",
            hint="Build that model with deployfold build, or save it and name the file.",
        )
    names = entry.get("precisions", table.get("precisions", ["fp16"]))
    precisions = parse_precisions(_words(path, "precisions", names), f"{path}: ")
    check_calibration(precisions, settings.get("calib"))
    return FleetModel(
        name,
        source,
        settings,
        precisions,
        _targets(path, entry.get("targets", table.get("targets", [AUTO]))),
    )


def _name_of(source: str) -> str:
    stem = source.partition(":")[2] if ":" in source else Path(source).stem
    return re.sub(r"[^\w.+-]", "_", stem)


def _check_settings(
    path: Path, text: str, allow_code: Collection[str], settings: dict[str, Any], where: str
) -> None:
    for key in DECIDED:
        if key in settings:
            raise UsageError(
                f"{path}: the sweep sets {key!r} itself, so {where} may not.",
                hint="List them as precisions = […] and targets = […].",
            )
    functions = {key: settings[key] for key in code_keys() if is_function(settings.get(key))}
    for key, function in functions.items():
        if function not in allow_code:
            raise UsageError(
                f"{path}: {key!r} in {where} would run code that the file chose.",
                hint=f"If you trust the code, add: --allow-code {function}",
            )
    check_table(path, text, {key: settings[key] for key in settings if key not in functions})


def _targets(path: Path, names: object) -> tuple[str, ...]:
    found = _words(path, "targets", names)
    for name in found:
        check_target(name)  # report a bad target before the first build
    return tuple(AUTO if name.strip().lower() == AUTO else name for name in found)


def _words(path: Path, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise UsageError(f'{path}: {key} must be a list of words, such as {key} = ["…"].')
    return tuple(dict.fromkeys(value))


def _only(path: Path, table: dict[str, Any], keys: tuple[str, ...]) -> None:
    unknown = next((key for key in table if key not in keys), None)
    if unknown is not None:
        raise UsageError(
            f"{path}: unknown key {unknown!r}.",
            hint=f"The keys of a fleet file are {', '.join(keys)}; those of a build profile "
            "belong under [build] or [[model]].",
        )


def _jobs(path: Path, table: dict[str, Any]) -> int | None:
    jobs = table.get("jobs")
    if jobs is not None and (not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1):
        raise UsageError(f"{path}: jobs must be a positive integer, not {jobs!r}.")
    return jobs


def _memory(path: Path, table: dict[str, Any]) -> float | None:
    memory = table.get("memory-gib")
    number = isinstance(memory, (int, float)) and not isinstance(memory, bool)
    if memory is not None and (not number or not 0 < memory < float("inf")):
        raise UsageError(f"{path}: memory-gib must be a positive number, not {memory!r}.")
    return None if memory is None else float(memory)
