"""Checks the task metrics of a build before its long stages."""

from __future__ import annotations

from contextlib import closing

import torch

from deployfold.config.inputs import InputSpec
from deployfold.data.real_inputs import tensors_of
from deployfold.lowering.request import ScoredData
from deployfold.runtimes.eager import EagerRunner


def check_scored(module: torch.nn.Module, inputs: InputSpec, data: ScoredData) -> str:
    """Score the original on one feed, so that outputs of another form end the build early.

    Returns:
        A note that names the samples of the metrics.

    Raises:
        UsageError: the labels or the outputs are not of the kind that a metric takes.
        MeasureError: the model cannot run.
    """
    data.scoring.check(data.labels)
    feed, labels = next(data.pairs())
    with closing(EagerRunner(module, title="The model")) as runner:
        runner.load()
        outputs = runner.run(tensors_of(feed, inputs))
    data.scoring.begin().add(outputs, labels, outputs)
    names = ", ".join(one.name for one in data.scoring.metrics)
    return f"{names}: on {len(data.feeds) * max(len(labels), 1)} samples, {data.origin}."
