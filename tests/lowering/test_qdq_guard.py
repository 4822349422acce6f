"""The layers that the guard puts back: their errors add up in ways that the guard cannot know."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployfold.config.accuracy import GuardSpec
from deployfold.config.precision import Precision
from deployfold.config.task_metrics import MetricLimit
from deployfold.errors import AccuracyError
from deployfold.lowering.accuracy import Measured
from deployfold.lowering.qdq.guard import Step, keep_accuracy
from deployfold.lowering.qdq.layers import Layer, QuantisedLayer
from deployfold.lowering.qdq.quantise import LayerResult
from deployfold.lowering.qdq.reports import unsure_notes


class Net:
    """Layers of ``(MACs, noise, divergence)``, whose errors add up; counts the attempts."""

    def __init__(
        self,
        layers: Mapping[str, tuple[int, float, float]],
        surprise: float = 1.0,
        luck: float = 0.0,
        spread: float = 0.0,
    ):
        self.layers = layers
        self.surprise = surprise
        self.luck = luck
        self.spread = spread
        self.attempts: list[frozenset[str]] = []
        self.fits = 0

    def measured(self, names) -> Measured:
        noise, divergence = (sum(self.layers[name][i] for name in names) for i in (1, 2))
        agreement = max(1 - math.sqrt(divergence), 0.0)
        return Measured(
            sqnr_db=-10 * math.log10(noise) if noise else math.inf,
            noise=noise,
            agreement=agreement,
            likely_agreement=agreement - self.luck,
            divergence=divergence,
            accuracy=None,
            reference_accuracy=None,
            max_abs_diff=0.0,
        )

    def attempt(self, excluded: frozenset[str], anew: bool = False) -> Step:
        self.attempts.append(excluded)
        self.fits += anew
        found = self.measured(set(self.layers) - excluded)
        sqnr_db = found.sqnr_db - self.surprise
        likely = {"sqnr_db": sqnr_db, "likely_sqnr_db": sqnr_db - self.spread}
        found = Measured(**(vars(found) | likely))
        return Step([self.result(name, name in excluded) for name in self.layers], found)

    def result(self, name: str, excluded: bool) -> LayerResult:
        layer = Layer(name, "Conv", "x", "y", "w", None, 0)
        quantised = QuantisedLayer(layer, np.zeros(1), np.ones(1), None, 1.0)
        return LayerResult(
            layer, None if excluded else quantised, "max", 1.0, 0.0, self.layers[name][0]
        )

    def costs(self) -> dict[str, Measured]:
        return {name: self.measured([name]) for name in self.layers}

    def keep(self, **limits) -> tuple[Step, dict[str, str]]:
        return keep_accuracy(self.attempt, self.costs, GuardSpec(**limits), Precision.INT8)


def test_a_model_within_the_limit_is_left_unchanged():
    net = Net({"a": (10, 1e-3, 0.0), "b": (10, 1e-4, 0.0)})
    step, reasons = net.keep()
    assert (step.share, reasons, len(net.attempts)) == (1.0, {}, 1)


def test_sqnr_that_other_pictures_may_miss_is_improved():
    layers = {"noisy": (10, 0.01, 0.0), "rest": (90, 1e-3, 0.0)}
    limits = {"min_sqnr_db": 18.0}
    assert Net(layers, spread=0.5).keep(**limits)[1] == {}
    step, reasons = Net(layers, spread=2.0).keep(**limits)
    assert set(reasons) == {"noisy"}
    assert step.measured.likely_sqnr_db >= 18
    # Where no model is sure to hold the limit, one that was measured to hold it is kept.
    assert Net(layers, spread=30.0).keep(**limits, min_quantized_share=0.95)[1] == {}


def test_an_agreement_that_other_samples_may_miss_is_improved():
    """The first model too: what it was measured to agree on few samples may be luck."""
    layers = {"confusing": (10, 1e-4, 9e-4), "rest": (90, 1e-4, 1e-6)}
    limits = {"min_sqnr_db": 10.0, "min_agreement": 0.95}
    assert Net(layers).keep(**limits)[1] == {}
    step, reasons = Net(layers, luck=0.03).keep(**limits)
    assert set(reasons) == {"confusing"}
    assert step.measured.likely_agreement >= 0.95
    assert Net(layers, luck=0.03).keep(**limits, min_quantized_share=0.95)[1] == {}


def test_noise_decides_where_sqnr_is_missing_and_divergence_where_agreement_is():
    layers = {
        "noisy": (10, 0.05, 1e-5),
        "confusing": (10, 1e-4, 0.04),
        "harmless": (80, 1e-4, 1e-6),
    }
    assert set(Net(layers).keep(min_sqnr_db=20.0)[1]) == {"noisy"}
    net = Net(layers)
    assert set(net.keep(min_sqnr_db=10.0, min_agreement=0.95)[1]) == {"confusing"}
    assert net.attempts == [frozenset(), *[frozenset({"confusing"})] * 2], "not found by trying"
    assert set(Net(layers).keep(min_sqnr_db=20.0, min_agreement=0.95)[1]) == {"noisy", "confusing"}


def test_cheap_layers_go_first():
    layers = {"large": (900, 0.02, 0.0), "small": (10, 0.01, 0.0), "rest": (90, 1e-3, 0.0)}
    step, reasons = Net(layers, surprise=0.0).keep(min_sqnr_db=16.0)
    assert set(reasons) == {"small"}
    assert step.share == pytest.approx(0.99)


def test_more_than_needed_goes_back_to_int8():
    """Ten like layers; the prediction puts back more than the limit needs."""
    net = Net({str(i): (10, 1e-2, 0.0) for i in range(10)}, surprise=-1.0)
    step, reasons = net.keep(min_sqnr_db=13.0)
    assert len(reasons) == 4, "10 log10(1 / (6 * 0.01)) + 1 dB is above 13, with one more it is not"
    assert step.measured.sqnr_db >= 13


def test_far_more_than_needed_is_found_by_bisection():
    """The prediction puts back most of 40 like layers, and 10 are enough."""
    net = Net({str(i): (10, 1e-2, 0.0) for i in range(40)})
    real = net.measured
    net.measured = lambda names: real(list(names)[:1] if len(names) <= 30 else names)
    net.costs = lambda: {name: real([name]) for name in net.layers}
    _, reasons = net.keep(min_sqnr_db=10.0, min_quantized_share=0.1)
    assert len(net.attempts[1]) > 25
    assert len(reasons) == 10


def test_a_large_layer_that_was_put_back_in_vain_goes_back_to_int8():
    net = Net({"large": (500, 0.6, 0.0), "b": (100, 0.1, 0.0), "rest": (400, 1e-3, 0.0)})
    real = net.measured
    # In company it costs next to nothing: the layer before it makes the same error.
    net.measured = lambda names: real({"large", "rest"} & set(names) if len(names) == 1 else
                                      set(names) - {"large"})  # fmt: skip
    net.costs = lambda: {name: real([name]) for name in net.layers}
    step, reasons = net.keep(min_sqnr_db=20.0, min_quantized_share=0.1)
    assert set(reasons) == {"b"}
    assert step.share == pytest.approx(0.9)


def test_the_least_share_is_used_up_before_it_is_refused():
    """The prediction asks for five layers, two are allowed, and two are enough."""
    layers = {str(i): (10, 1e-2, 0.0) for i in range(10)}
    net = Net(layers)
    real = net.measured
    net.measured = lambda names: real(list(names)[:1] if len(names) <= 8 else names)
    step, _ = net.keep(min_sqnr_db=15.0, min_quantized_share=0.8)
    assert step.share == pytest.approx(0.8)


def test_the_likely_agreement_of_a_chosen_model_holds_if_that_of_one_does():
    """Agreement is 1 - sqrt(0.001 n) with n layers in int8: two hold 95 %, one holds 96.5 %."""
    layers = {str(i): (10, 1e-4, 1e-3) for i in range(10)}

    def share(luck: float, least: float) -> float:
        net = Net(layers, luck=luck)
        step, _ = net.keep(min_sqnr_db=10.0, min_agreement=0.95, min_quantized_share=least)
        return step.share

    assert share(luck=0.0, least=0.0) == pytest.approx(0.2)
    assert share(luck=0.015, least=0.0) == pytest.approx(0.1)
    assert share(luck=0.015, least=0.2) == pytest.approx(0.2), "where no other may, this holds"


def test_a_refusal_says_what_there_is_and_what_was_asked_for():
    net = Net({str(i): (10, 1e-2, 0.01) for i in range(10)})
    with pytest.raises(AccuracyError) as refused:
        net.keep(min_sqnr_db=40.0, min_agreement=0.99, min_quantized_share=0.5)
    assert "40 dB and 99.0%" in refused.value.message
    assert "50%" in refused.value.message
    assert len(min(net.attempts, key=len)) == 0


def test_the_report_says_which_limit_other_pictures_may_miss():
    layers = {"noisy": (10, 0.01, 9e-4), "rest": (90, 1e-3, 1e-6)}
    guard = GuardSpec(min_sqnr_db=18.0, min_agreement=0.95, min_quantized_share=0.95)
    net = Net(layers, luck=0.03, spread=2.0)
    measured = replace(net.keep(**vars(guard))[0].measured, pictures=5)
    agreement, sqnr = measured.agreement, measured.sqnr_db
    assert unsure_notes(measured, measured, guard) == (
        f"--min-sqnr 18 cannot be promised for other pictures: the guard measured {sqnr:.1f} dB on "
        f"5, and as many others may give {sqnr - 2:.1f} dB. "
        f"{math.ceil(5 * (2 / (sqnr - 18)) ** 2)} such pictures would be enough.",
        f"--min-agreement 0.95 cannot be promised for other pictures: the guard measured "
        f"{agreement:.1%} on 5, and as many others may give {agreement - 0.03:.1%}. "
        f"{math.ceil(5 * (0.03 / (agreement - 0.95)) ** 2)} such pictures would be enough.".replace(
            "%", " %"
        ),
    )
    sure = replace(measured, likely_sqnr_db=18.0, likely_agreement=0.95)
    assert unsure_notes(sure, sure, guard) == ()
    assert unsure_notes(sure, replace(sure, agreement=0.93), guard) == (
        "--min-agreement 0.95 is missed on the samples that neither calibration nor the guard saw: "
        "93.0 %.",
    )


@given(
    st.lists(
        st.tuples(st.integers(1, 1000), st.floats(1e-6, 0.1), st.floats(1e-8, 0.1)),
        min_size=1, max_size=20,
    ),
    st.floats(0.0, 3.0), st.floats(10.0, 40.0), st.one_of(st.none(), st.floats(0.5, 1.0)),
    st.floats(0.0, 0.9),
)  # fmt: skip
def test_the_result_meets_the_limit_or_is_refused(layers, surprise, decibels, agreement, least):
    net = Net({str(i): layer for i, layer in enumerate(layers)}, surprise)
    try:
        step, reasons = net.keep(
            min_sqnr_db=decibels, min_agreement=agreement, min_quantized_share=least
        )
    except AccuracyError:
        assert len(net.attempts) <= 7
        return
    assert len(net.attempts) <= 14
    assert net.fits <= 2, "only the last choices are fitted anew"
    assert step.measured.sqnr_db >= decibels
    assert agreement is None or step.measured.agreement >= agreement
    assert step.share >= least - 1e-6
    left = {r.layer.name for r in step.results if r.quantised is None}
    assert left == set(reasons)


def test_a_missed_task_metric_puts_back_the_noisiest_layers():
    """The SQNR holds from the start; the metric holds from a hundredth of the noise on."""
    limit = MetricLimit("box_ap", 1.0, "pt")

    class Scored(Net):
        def attempt(self, excluded: frozenset[str], anew: bool = False) -> Step:
            step = super().attempt(excluded, anew)
            missed = (limit,) if step.measured.noise > 1e-4 else ()
            return Step(step.results, replace(step.measured, missed=missed))

    layers = {"a": (10, 5e-3, 0.0), "b": (40, 9e-5, 0.0), "c": (50, 5e-6, 1e-2)}
    step, reasons = Scored(layers).keep(min_sqnr_db=10)
    assert set(reasons) == {"a"}
    assert not step.measured.missed
    with pytest.raises(AccuracyError, match=r"and not 10 dB and box_ap=-1pt with"):
        Scored({"a": (60, 5e-3, 0.0), "b": (40, 9e-5, 0.0)}).keep(min_sqnr_db=10)
