"""Task metrics: what outputs are worth for the task, with the user's labels. One file a metric."""

from __future__ import annotations

from deployfold.config.flag_values import is_function
from deployfold.errors import UsageError

from .box_ap import BOX_AP, BOX_AP_IDS
from .classes import TOP1, TOP5
from .cosine import COSINE
from .function import function_metric
from .mean_iou import MEAN_IOU
from .metric import TaskMetric
from .scoring import ScoredData, Scores, Scoring, labelled

__all__ = ["READY", "ScoredData", "Scores", "Scoring", "TaskMetric", "find_metrics", "labelled"]

READY = (TOP1, TOP5, MEAN_IOU, BOX_AP, BOX_AP_IDS, COSINE)
"""The metrics that come with the package; ``config.task_metrics.READY`` has their names."""


def find_metrics(names: tuple[str, ...]) -> tuple[TaskMetric, ...]:
    """The metrics of ``--metric``: ready ones, and functions, which are imported.

    Raises:
        UsageError: a name is unknown, or a function cannot be imported.
    """
    ready = {one.name: one for one in READY}
    found = []
    for name in names:
        if name not in ready and not is_function(name):
            raise UsageError(
                f"There is no metric {name!r}.",
                hint=f"Give package.module:function, or one of {', '.join(ready)}.",
            )
        found.append(ready[name] if name in ready else function_metric(name))
    return tuple(found)
