"""A task metric that the user wrote: ``--metric package.module:function``."""

from __future__ import annotations

import inspect
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deployfold.errors import UsageError, one_line
from deployfold.loading.importing import import_function, working_directory_importable
from deployfold.util.arrays import Array

from .metric import TaskMetric

_HINT = (
    "function(outputs, labels) gets two lists with one item for each inference: the outputs as a "
    "tuple of arrays, the labels as a list. The result is a number, or a dict of numbers by name."
)
_NAME = re.compile(r"[A-Za-z_][\w.@-]{0,39}", re.ASCII)


def function_metric(name: str) -> TaskMetric:
    """The metric of a function; a parameter ``reference`` gets the original's outputs as well.

    Raises:
        UsageError: the function cannot be imported.
    """
    function = import_function(name, hint=_HINT)
    return TaskMetric(name, lambda: _Collected(name, function), "any")


class _Collected:
    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name, self._function = name, function
        self._outputs: list[tuple[Array, ...]] = []
        self._labels: list[list[Any]] = []
        self._reference: list[tuple[Array, ...]] = []
        self._compares = "reference" in inspect.signature(function).parameters

    def add(
        self, outputs: Sequence[Array], labels: Sequence[Any], reference: Sequence[Array]
    ) -> None:
        self._outputs.append(tuple(outputs))
        self._labels.append(list(labels))
        if self._compares:
            self._reference.append(tuple(reference))

    def result(self) -> dict[str, float]:
        more = {"reference": self._reference} if self._compares else {}
        try:
            with working_directory_importable():
                value = self._function(self._outputs, self._labels, **more)
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise UsageError(f"--metric {self._name} raised {reason}.", hint=_HINT) from error
        named = value if isinstance(value, Mapping) else {self._name.rpartition(":")[2]: value}
        for key, one in named.items():
            item = one.item() if hasattr(one, "item") else one
            if not isinstance(item, numbers.Real) or not _NAME.fullmatch(str(key)):
                raise UsageError(
                    f"--metric {self._name} returned {one_line(repr({key: one}), 120)}, not a "
                    "number by a name of letters and digits.",
                    hint=_HINT,
                )
        return {str(key): float(one) for key, one in named.items()}
