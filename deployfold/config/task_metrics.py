"""The task metrics of a build, and the limits that every row has to keep."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deployfold.errors import UsageError

from .option_field import Panel, option

READY = ("top1", "top5", "mean_iou", "box_ap", "box_ap_ids", "cosine")
"""The metrics that come with deployfold; :mod:`deployfold.scoring` has one module for each.

The command line reads the names here, because :mod:`deployfold.scoring` imports numpy.
"""


@dataclass(frozen=True)
class MetricLimit:
    """The least value of one number of a task metric.

    Attributes:
        name: the number's name, such as ``box_ap``.
        value: the least value; with a unit, how much it may be below the original's.
        unit: empty for an absolute value, ``%`` for a share of the original's value, ``pt`` for
            hundredths.
    """

    name: str
    value: float
    unit: str = ""

    def least(self, original: float) -> float:
        """The least value that passes, given the original's."""
        if self.unit == "%":
            return original - self.value / 100 * abs(original)
        return original - self.value / 100 if self.unit else self.value

    def __str__(self) -> str:
        return f"{self.name}={-self.value if self.unit else self.value:g}{self.unit}"


_METRIC_LIMIT = re.compile(
    r"([A-Za-z_][\w.@-]*)=(?:(-?\d+(?:\.\d+)?)|-(\d+(?:\.\d+)?)(%|pt))", re.ASCII
)


def parse_metric_limits(texts: Sequence[str]) -> tuple[MetricLimit, ...]:
    """Read every ``--min-metric NAME=VALUE``, ``NAME=-1%`` or ``NAME=-1pt``.

    Raises:
        UsageError: a text has another form.
    """
    limits = []
    for text in texts:
        match = _METRIC_LIMIT.fullmatch(text)
        if match is None:
            raise UsageError(
                f"--min-metric {text}: expected NAME=VALUE, NAME=-N% or NAME=-Npt.",
                hint="Such as box_ap=0.4, box_ap=-1% (of the original's) or box_ap=-1pt (0.01 "
                "below the original's).",
            )
        name, absolute, below, unit = match.groups()
        limits.append(MetricLimit(name, float(absolute or below), unit or ""))
    return tuple(limits)


@dataclass(frozen=True)
class MetricSpec:
    """The task metrics to measure, and their limits.

    Attributes:
        names: ready metrics and functions, as ``--metric`` has them.
        limits: the least values.
    """

    names: tuple[str, ...] = option(
        (),
        f"A task metric of every row: {', '.join(READY)}, or package.module:function; repeat it "
        "for several.",
        Panel.MEASUREMENT,
        key="metric",
        metavar="NAME|FUNCTION",
        in_profiles=False,
    )
    limits: tuple[MetricLimit, ...] = option(
        (),
        "Fail if a row has less of a --metric; box_ap=0.4, or box_ap=-1% of the original's, or "
        "-1pt for 0.01. Layers of lowered models go back until they keep it.",
        Panel.LIMITS,
        key="min-metric",
        metavar="NAME=VALUE|-N%",
        read=parse_metric_limits,
    )
