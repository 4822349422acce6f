"""Throughput by batch size, on scripted rows and on real ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scripted import Clock, Scripted

from deployfold.config.flag_values import read_batches
from deployfold.errors import MeasureError, UsageError
from deployfold.measuring.batch_sweep import sweep_batches
from deployfold.reporting.row import BatchPoint, saturation
from deployfold.runtimes.eager import EagerRunner
from deployfold.runtimes.protocol import Inputs, Step
from deployfold.util.arrays import Array


class Batched(Scripted):
    """Takes 1 ms and 1 ms a sample, in real time; refuses batches above ``most``."""

    def __init__(self, most: int = 100) -> None:
        super().__init__(Clock(), 1)
        self.most, self.batch, self.loads = most, 0, 0

    def load(self) -> None:
        self.loads += 1

    def prepare(self, inputs: Inputs) -> Step:
        self.batch = len(inputs[0])
        if self.batch > self.most:
            raise MeasureError(f"no optimization profile holds batch {self.batch}")
        return super().prepare(inputs)

    def run(self, inputs: Inputs) -> tuple[Array, ...]:
        return (np.zeros((min(len(inputs[0]), 4), 2)),)


def make(batch: int) -> Inputs:
    return (np.zeros((batch, 3), dtype=np.float32),)


def test_every_size_of_every_row_and_the_runners_load_once() -> None:
    rows = {"base": Batched(), "row": Batched(most=4)}
    points = sweep_batches(rows, make, (8, 1), max_seconds=0.4)
    assert [point.batch for point in points["base"]] == [1, 8]
    assert all(point.throughput for point in points["base"])
    first, second = points["row"]
    assert first.median_ms is not None
    assert first.throughput == pytest.approx(1 / first.median_ms * 1e3)
    assert second.throughput is None
    assert second.not_measured == "no optimization profile holds batch 8"
    assert {runner.loads for runner in rows.values()} == {1}
    assert all(runner.closed for runner in rows.values())


def test_a_row_whose_outputs_ignore_the_batch_is_not_measured() -> None:
    linear = torch.nn.Linear(3, 2).requires_grad_(False)
    fixed = torch.jit.trace(lambda x: linear(x[:1]), torch.zeros(1, 3))
    runners = {"base": EagerRunner(linear), "fixed": EagerRunner(fixed)}  # type: ignore[arg-type]
    points = sweep_batches(runners, make, (1, 4), threads=1, max_seconds=0.4)
    assert points["fixed"][0].throughput is not None
    assert "[(1, 2)], the original's [(4, 2)]" in (points["fixed"][1].not_measured or "")


def test_inputs_that_cannot_be_made_cost_one_size() -> None:
    def only_small(batch: int) -> Inputs:
        if batch > 1:
            raise MeasureError("no memory")
        return make(batch)

    small, large = sweep_batches({"base": Batched()}, only_small, (1, 2), max_seconds=0.2)["base"]
    assert small.throughput is not None
    assert large.not_measured == "no memory"
    with pytest.raises(MeasureError, match="nothing to measure"):
        sweep_batches({}, make, (1,))


@pytest.mark.parametrize(
    ("throughputs", "batch"),
    [
        ({1: 50.0, 8: 96.0, 32: 100.0}, 8),
        ({1: 50.0, 8: 94.0, 32: 100.0}, 32),
        ({1: 100.0, 8: 90.0}, 1),
        ({1: 100.0}, None),
        ({1: None, 8: 90.0, 32: 91.0}, 8),
    ],
)
def test_throughput_saturates_at_the_smallest_batch_within_5_percent_of_the_best(
    throughputs: dict[int, float | None], batch: int | None
) -> None:
    points = [BatchPoint(batch=n, throughput=rate) for n, rate in throughputs.items()]
    assert saturation(points) == batch


def test_batches_as_the_option_takes_them() -> None:
    assert read_batches("32, 1,8") == (1, 8, 32)
    for text in ("", "1,,2", "0", "1,1", "-1", "a", "1.5", "9" * 9, "²"):
        with pytest.raises(UsageError, match="expected different positive integers"):
            read_batches(text)
