"""Runs the rounds of one measurement, decides when to stop, and computes each row's results."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deployfold.events import Emit, StageProgress
from deployfold.reporting.row import CudaGraph, GpuState, Speedup
from deployfold.runtimes.device import gpu_index
from deployfold.runtimes.protocol import Inputs

from .gpu import gpu_state
from .machine_load import Contention, CpuWatch
from .measurements import Measured, Measurements, latency_of
from .stability import TOLERANCE, Evidence
from .stats import Interval, coefficient_of_variation, median_interval, percentile_interval
from .timed_runner import TimedRunner

FIRST_LOOK = 15
"""Rounds before the first check of the intervals."""
CONFIRM_GROWTH = 1.25
"""Factor of the number of rounds from one check to the next. The goal must be met at two checks in
a row. Stopping at the first narrow interval would favour lucky ones: two equal rows would then
differ in 11 of 100 runs, with two checks in 5 or fewer (simulated, log-normal noise with
outliers)."""
_PROGRESS_NS = 250_000_000


@dataclass
class Session:
    """The state of one call of :func:`~.latency.measure`; times are in milliseconds and seconds."""

    all_rows: list[TimedRunner]
    threads: int
    batch: int
    max_seconds: float
    min_rounds: int
    seed: int
    clock: Callable[[], int]
    device: str | None = None
    started: int | None = None
    ended: int | None = None
    completed: int = 0
    converged: bool = False
    contention: Contention | None = None
    gpu: GpuState | None = None

    @property
    def live(self) -> list[TimedRunner]:
        """The rows that have not failed."""
        return [row for row in self.all_rows if row.failure is None]

    def prepare(self, inputs: Inputs, emit: Emit) -> None:
        """Load and warm up every row; a row that fails is left out of the rounds."""
        for row in self.all_rows:
            emit(StageProgress("measure", f"loading {row.name}"))
            row.load(inputs)
        gc.collect()  # can take seconds on a busy machine, so collect before the clock starts
        self.started = self.clock()
        budget = 0.1 * self.max_seconds / max(1, len(self.live))
        for row in self.live:
            emit(StageProgress("measure", f"warming up {row.name}", self._fraction()))
            row.warm_up(int(budget * 1e9))

    def rounds(self, emit: Emit) -> None:
        """Run rounds until the intervals are narrow or the time is up."""
        rng = np.random.default_rng(self.seed)
        watch = CpuWatch()
        watch.start()
        try:
            self._repeat(rng, emit)
        finally:
            self.contention = watch.stop()
            self.ended = self.clock()
            if any(row.device_times() for row in self.live):
                self.gpu = gpu_state(gpu_index(self.device))

    def _repeat(self, rng: np.random.Generator, emit: Emit) -> None:
        next_check, met, last_progress = FIRST_LOOK, 0, -_PROGRESS_NS
        while self.live and self._round(rng):
            now = self.clock()
            if self.completed >= next_check:
                met = met + 1 if self._widest() <= TOLERANCE else 0
                if met == 2:
                    self.converged = True
                    break
                next_check = math.ceil(CONFIRM_GROWTH * self.completed)  # at least one round later
            if now - last_progress >= _PROGRESS_NS:
                last_progress = now
                emit(StageProgress("measure", f"round {self.completed}", self._fraction()))

    def _round(self, rng: np.random.Generator) -> bool:
        """Run one block of every row; False when the time is up."""
        live = self.live
        for index in rng.permutation(len(live)):
            if self._time_is_up():
                return False
            live[index].block()
        for row in self.live:
            row.keep()
        self.completed += 1
        return not self._time_is_up()

    def _time_is_up(self) -> bool:
        return self.completed >= self.min_rounds and self._seconds() >= self.max_seconds

    def _seconds(self) -> float:
        return 0.0 if self.started is None else (self.clock() - self.started) / 1e9

    def _fraction(self) -> float:
        """The completed fraction of the measurement: of the time, or of the required rounds."""
        by_time = self._seconds() / max(self.max_seconds, 1e-9)
        by_rounds = (1 + self.completed) / (1 + self.min_rounds)
        return min(1.0, by_time, by_rounds)

    @property
    def _baseline(self) -> TimedRunner:
        return self.all_rows[0]

    def _comparable(self, row: TimedRunner) -> TimedRunner | None:
        """The baseline, if it was measured by the same clock as ``row``.

        The host's clock includes the copies and the launch; a GPU's clock does not.
        """
        base = self._baseline
        return base if base.failure is None and base.on_gpu == row.on_gpu else None

    def _interval(self, row: TimedRunner) -> Interval | None:
        """The interval of the speed-up, or of the row's time without a comparable baseline."""
        base = self._comparable(row)
        times = np.asarray(row.round_ms[: self.completed])
        if not times.size:
            return None
        if base is not None and base is not row:
            times = np.asarray(base.round_ms[: self.completed]) / times
        return median_interval(times, self.seed)

    def _widest(self) -> float:
        rows = self.live
        if len(rows) > 1:
            # The ratio of the baseline to itself is always 1, so only the other rows count.
            rows = [row for row in rows if row is not self._baseline]
        intervals = [self._interval(row) for row in rows]
        return max((i.relative_half_width for i in intervals if i is not None), default=math.inf)

    def result(self) -> Measurements:
        """The results of all completed rounds."""
        end = self.clock() if self.ended is None else self.ended
        return Measurements(
            rows=tuple(self._measured(row) for row in self.all_rows),
            rounds=self.completed,
            seconds=0.0 if self.started is None else (end - self.started) / 1e9,
            converged=self.converged,
        )

    def _measured(self, row: TimedRunner) -> Measured:
        if row.failure is not None:
            return Measured(row.name, None, row.failure, row.outputs)
        interval = self._interval(row)
        if interval is None:
            return Measured(row.name, None, "interrupted before a round was complete", row.outputs)
        samples = np.concatenate(row.blocks_ms[: self.completed])
        tail = percentile_interval(row.blocks_ms[: self.completed], 95)
        speedup = interval if self._comparable(row) is not None else None
        if row is self._baseline:
            speedup = Interval(1.0, 1.0, 1.0)
        evidence = self._evidence(row, coefficient_of_variation(samples), interval)
        graph = None if evidence.device is None else evidence.device.graph
        return Measured(
            row.name,
            latency_of(
                samples,
                median_interval(row.round_median_ms[: self.completed], self.seed),
                evidence,
                self.batch,
                speedup=None if speedup is None else Speedup.model_validate(speedup),
                quantiles_ms=np.quantile(samples, np.linspace(0, 1, 21)).tolist(),
                end_to_end_ms=row.end_to_end_ms(),
                preemptions_per_s=evidence.preemptions,
                other_cpus=self.contention.others if self.contention else None,
                graph=None if graph is None else CudaGraph.model_validate(graph),
                p95_low_ms=tail.low if tail.bounded else None,
                p95_high_ms=tail.high if tail.bounded else None,
                overtime_s=self._overtime(),
            ),
            outputs=row.outputs,
            notes=(*row.notes, *row.part_notes, *self._clock_note(row)),
        )

    def _clock_note(self, row: TimedRunner) -> tuple[str, ...]:
        """Why the row has no speed-up although both it and the baseline were measured."""
        base = self._baseline
        if base.failure is not None or base.on_gpu == row.on_gpu:
            return ()
        clocks = ("the GPU's clock", "the host's clock")
        own, others = clocks if row.on_gpu else clocks[::-1]
        return (f"no speed-up: timed by {own}, and {base.name} by {others}",)

    def _overtime(self) -> float | None:
        """Seconds past the limit that the least number of rounds took; ``None`` without any."""
        if self.completed > self.min_rounds or self.started is None or self.ended is None:
            return None
        over = (self.ended - self.started) / 1e9 - self.max_seconds
        return over if over > 0 else None

    def _evidence(self, row: TimedRunner, variation: float, interval: Interval) -> Evidence:
        device = row.device_times()
        return Evidence(
            variation=variation,
            interval=interval,
            rounds=self.completed,
            converged=self.converged,
            threads=self.threads,
            preemptions=row.preemptions_per_second(),
            contention=self.contention,
            device=device,
            gpu=None if device is None else self.gpu,
        )
